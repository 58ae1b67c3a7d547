"""A docstring, written to be read as plain text, as reStructuredText."""

import re

from tools.site.equations import is_equation, latex
from tools.site.names import constant, links

_SPECIAL = re.compile(r"(?<![*\\])\*(?!\*)|(?<!\\)\||(?<=\w)_(?!\w)")
_CODE_OR_MATH = re.compile(r"(`[^`]+`|\$[^$]+\$)")


def _indent(line):
    return len(line) - len(line.lstrip())


def _span(text):
    """Return code and math between quotes and dollars in their roles, and the rest escaped."""
    if text.startswith("`"):
        name = text.strip("`")
        page = links().get(name)
        return f":py:obj:`{name} <{page}>`" if page else f"``{name}``"
    if text.startswith("$"):
        return f":math:`{text.strip('$')}`"
    return _SPECIAL.sub(lambda found: "\\" + found[0], text)


def _prose(lines):
    """Return lines of text with their spans in roles; a span may go on in the next line."""
    text = "\n".join(lines)
    marked = "".join(
        f"\x02{_span(part)}\x03" if part[0] in "`$" else _span(part)
        for part in _CODE_OR_MATH.split(text)
        if part
    )
    # Letters that touch a span, as in a plural, are set off by an escaped space.
    marked = re.sub(r"(?<=\x03)(?=\w)|(?<=\w)(?=\x02)", r"\\ ", marked)
    return marked.translate({2: None, 3: None}).split("\n")


def _is_block(lines, at):
    """Tell whether an indented block begins at a line: deeper than the text, after a blank line."""
    if at < 2 or lines[at - 1].strip() or not lines[at].strip():
        return False
    before = next((line for line in reversed(lines[: at - 1]) if line.strip()), None)
    item = before is not None and before.lstrip().startswith("- ")
    return before is not None and not item and _indent(lines[at]) >= _indent(before) + 4


def _end(lines, at):
    """Return the line after the block that begins at `at`."""
    depth, end = _indent(lines[at]), at + 1
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) >= depth):
        end += 1
    while not lines[end - 1].strip():
        end -= 1
    return end


def _directive(name, body, margin):
    return ["", f"{margin}.. {name}", "", *(f"{margin}    {line}".rstrip() for line in body), ""]


def to_rst(lines):
    """Return the lines of a docstring in reStructuredText, its sections left to napoleon.

    Formulas, which stand indented, and LaTeX between dollars are typeset; code between backquotes
    is set as code, and links to its page where it is a public name; other indented blocks are
    literal.
    """
    result, text, at = [], [], 0

    def flush():
        result.extend(_prose(text))
        text.clear()

    while at < len(lines):
        line = lines[at]
        stripped = line.strip()
        if stripped.startswith(">>>"):
            flush()
            while at < len(lines) and lines[at].strip():
                result.append(lines[at])
                at += 1
        elif stripped.startswith("```"):
            flush()
            margin, end = line[: _indent(line)], lines.index(line[: _indent(line)] + "```", at + 1)
            body = [part[len(margin) :] for part in lines[at + 1 : end]]
            result.extend(_directive(f"code-block:: {stripped[3:]}", body, margin))
            at = end + 1
        elif stripped.startswith("$$"):
            end = at
            while not lines[end].rstrip(" .,").endswith("$$") or (end == at and stripped == "$$"):
                end += 1
            flush()
            body = " ".join(part.strip() for part in lines[at : end + 1]).replace("$$", "").strip()
            result.extend(_directive("math::", [body], line[: _indent(line)]))
            at = end + 1
        elif _is_block(lines, at):
            flush()
            end = _end(lines, at)
            depth = _indent(line)
            block = [part[depth:] for part in lines[at:end]]
            before = next(part for part in reversed(lines[:at]) if part.strip())
            name, body = "code-block:: text", block
            if is_equation(block):
                name, body = "math::", latex(block)
            result.extend(_directive(name, body, before[: _indent(before)]))
            at = end
        else:
            text.append(line)
            at += 1
    flush()
    return result


def process(app, what, name, obj, options, lines):
    """Rewrite the lines of a docstring in place, as Sphinx asks of an extension."""
    if what == "data":  # Sphinx has the docstring of its type
        lines[:] = constant(name).split("\n")
    rst = to_rst(lines)
    # Behind an empty comment napoleon does not take what stands before a colon for the type.
    lines[:] = ["..", "", *rst] if what in ("property", "attribute", "data") else rst
