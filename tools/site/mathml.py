"""LaTeX in a page as MathML, which browsers show by themselves: no script, and no network."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

# Raised and small as an exponent, a prime would hardly be seen: its sign is both by itself.
_PRIME = re.compile(r"<msup>((?:(?!<msup>).)*?)<mi>(&#x02032;)</mi></msup>")
_ALIGNED = re.compile(r"\{(?:aligned|align\*?)\}")


def to_mathml(text, display="inline"):
    """Return LaTeX as an element `math`.

    Raises:
        ValueError: if it has a command that is not known, which would be shown as it is written.
    """
    result = convert(_ALIGNED.sub("{split}", text), display=display)
    if unknown := re.search(r"<m\w+[^>]*>(\\\w+|&)<", result):
        raise ValueError(f"LaTeX must be known to latex2mathml. Received: {unknown[1]} in {text!r}")
    return _PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>', result)


def _write(translator, node, display):
    try:
        return to_mathml(node.astext(), display)
    except Exception as error:  # whatever the converter does not bear
        logging.getLogger(__name__).warning("formula: %s", error, location=node)
        return translator.encode(node.astext())


def inline(translator, node):
    """Write a formula within the text."""
    translator.body.append(f'<span class="math">{_write(translator, node, "inline")}</span>')
    raise nodes.SkipNode


def block(translator, node):
    """Write a formula that stands by itself, which scrolls where it is wider than the page."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(f"{_write(translator, node, 'block')}</div>\n")
    raise nodes.SkipNode
