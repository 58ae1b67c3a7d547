"""LaTeX in a page as MathML, which browsers show by themselves."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

# An accent takes the index after it along, below the letter, unless it stands in braces.
_ACCENT = re.compile(r"\\(?:hat|bar|tilde|dot|vec) *(?:\{[^{}]*\}|\\?[A-Za-z]+)")


def _mathml(node, as_block):
    text = node.astext().replace(r"\dots", r"\ldots")  # which it does not know
    text = _ACCENT.sub(lambda found: f"{{{found[0]}}}", text)
    return tex2mathml(text, as_block=as_block)


def inline(translator, node):
    """Write a formula within the text."""
    translator.body.append(f'<span class="math">{_mathml(node, False)}</span>')
    raise nodes.SkipNode


def block(translator, node):
    """Write a formula that stands by itself, which scrolls where it is wider than the page."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(f"{_mathml(node, True)}</div>\n")
    raise nodes.SkipNode
