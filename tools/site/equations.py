"""The formulas of the docstrings, which are plain text, as LaTeX."""

import re

_GREEK = ("alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "phi", "rho", "pi")
_FUNCTIONS = ("exp", "log", "ln", "max", "min", "cos", "floor", "argmin", "argmax", "diag", "mean")
_SYMBOLS = {"<=": r"\le ", ">=": r"\ge ", "<-": r"\leftarrow ", "*": r"\ast ", ".": r"\cdot "}
_SYMBOLS |= {"||": r"\|", "...": r"\ldots "}
_SYMBOLS |= {
    f"{sign}=": rf"\ \text{{{shown}=}}\ " for sign, shown in zip("-+*", "−+∗", strict=True)
}

_RELATION = re.compile(r"(?:^|(?<=\s))(=|-=|\+=|\*=|<-)(?:\s|$)")
# What makes a block a formula, and what only code has.
_FORMULA = re.compile(r"(?:^|\s)(?:[-+*]?=|<[-=]|>=)\s|^(?:min|max) over ")
_CODE = re.compile(r"\"|->|\w\.\w+\(|^(?:with|for|def) .*:$")

_NAME = r"[a-z]{2,}(?:_[a-z]+)*_(?:hat|sqrt|[a-z]{4,})"  # of an argument: its `_` begins no index
_TOKEN = re.compile(
    rf"(?P<space> +)|(?P<number>\d[\d.]*(?:e-?\d+)?)|(?P<code>{_NAME}|`[^`]+`)"
    r"|(?P<sum>sum(?=_))|(?P<root>sqrt(?=\())|(?P<word>[A-Za-z]{3,}'s|[A-Za-z][A-Za-z0-9]*)"
    r"|(?P<script>[_^])|(?P<pair><(?=\S)[^<>]+>)"
    r"|(?P<symbol>\.\.\.|<=|>=|<-|-=|\+=|\*=|\|\||.)"
)


def is_equation(block):
    """Tell whether the lines of a block are a formula, not code or a table of words."""
    return any(map(_FORMULA.search, block)) and not any(map(_CODE.search, block))


def _word(word):
    """Return a word: a Greek letter, a letter and its number, a differential, a name, or text."""
    if word in ("eps", "epsilon"):
        return r"\epsilon"
    if word in _GREEK:
        return f"\\{word}"
    if word in _FUNCTIONS:
        return rf"\operatorname{{{word}}}"
    if numbered := re.fullmatch(r"([A-Za-z])(\d+)", word):
        return f"{numbered[1]}_{numbered[2]}"
    if re.fullmatch(r"[a-ce-z]h", word):
        return rf"\hat {word[0]}"
    if word[0] == "d" and word[1:] in (*_GREEK, "kernel", "bias", "loss"):
        return "d" + _word(word[1:])
    return word if re.fullmatch(r"d?[A-Za-z]", word) else rf"\text{{{word}}}"


def _closing(text, at):
    """Return where the bracket that opens at `at` closes."""
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] in "({") - (text[end] in ")}")
        if not depth:
            return end
    return len(text)


def _script(text, at):
    """Return the index or exponent that begins at `at`, as LaTeX, and its end."""
    if text[at : at + 1] in ("(", "{"):
        end = _closing(text, at)
        return _line(text[at + 1 : end]), end + 1
    found = re.compile(r"[A-Za-z]+(?:\(\w[+-]\w\)\w?)?|\d+|\+").match(text, at)
    script, end = (found[0], found.end()) if found else ("", at)
    if script in _FUNCTIONS and text[end : end + 1] == "(":
        end = _closing(text, end) + 1
        return _line(text[at:end]), end
    if script in (*_GREEK, *_FUNCTIONS, "cur"):
        return _word(script), end
    return script, end  # of several letters each is an index


def _space(before, after, width):
    """Return what a space between two pieces of text becomes: a product is written as a space."""
    if width > 1:
        return r"\quad "
    operators = "=+*/<>.:-"
    if re.search(rf"[,;{operators}]$", before) or re.match(rf"[{operators}]", after):
        return " "
    words = re.search(r"[A-Za-z']+$", before), re.match(r"(?!sum_|sqrt\()[A-Za-z']+", after)
    return r"\ " if any(w and _word(w[0]).startswith(r"\text") for w in words) else r"\, "


def _line(text):
    """Return one piece of a formula, without alignment, as LaTeX."""
    out, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        kind, token, start, at = found.lastgroup, found[0], at, found.end()
        if kind == "space":
            out.append(_space(text[:start], text[at:], len(token)))
        elif kind == "code":
            out.append(rf"\text{{{token.strip('`')}}}")
        elif kind == "sum":
            script, at = _script(text, at + 1)
            out.append(rf"\sum_{{{script}}} ")
        elif kind == "root":
            end = _closing(text, at)
            out.append(rf"\sqrt{{{_line(text[at + 1 : end])}}}")
            at = end + 1
        elif kind == "script":
            script, at = _script(text, at)
            out.append(f"{token}{{{script}}}")
        elif kind == "pair":
            out.append(rf"\langle {_line(token[1:-1])} \rangle ")
        elif kind == "word":
            out.append(_word(token))
        else:
            out.append(_SYMBOLS.get(token, f"\\{token}" if token in "{}" else token))
    return "".join(out)


def _row(line):
    """Return a line as LaTeX, with `&` where it is aligned: after a label, or before `=`."""
    columns = re.split(r" {3,}", line)
    relation = _RELATION.search(line)
    label = re.match(r"\S.*?(?=  )", line[: relation.start()].rstrip() if relation else "")
    if label and not _RELATION.match(line[label.end() :].lstrip()):
        rest = re.split(r" {3,}", line[label.end() :].strip())
        return rf"{_line(label[0])} & \quad " + r" \qquad ".join(map(_line, rest))
    if relation:
        rest = re.split(r" {3,}", line[relation.start() :])
        return f"{_line(line[: relation.start()].rstrip())} & " + r" \qquad ".join(map(_line, rest))
    return "& " + r" \qquad ".join(map(_line, columns))


def latex(block):
    """Return the lines of a formula as the lines of LaTeX, aligned at its first relations.

    Args:
        block: lines of plain text: `_` and `^` before an index and an exponent, products without a
            sign, Greek letters by name, columns three spaces apart. A line that is indented goes on
            with the one before.
    """
    lines = [line for line in block if line.strip()]
    rows = [
        rf"& \quad {_line(line.strip())}" if line.startswith("  ") else _row(line.rstrip())
        for line in lines
    ]
    return [r"\begin{aligned}", *(f"{row} \\\\" for row in rows[:-1]), rows[-1], r"\end{aligned}"]
