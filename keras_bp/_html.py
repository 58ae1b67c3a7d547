"""Notebooks: whether the code runs in one, and results as HTML, which it shows for the text."""

import html
import sys
from collections.abc import Sequence

_CELL = "text-align: left; vertical-align: top; padding: 2px 8px"
_SHORT = 30  # characters, which stay on one line


def in_notebook() -> bool:
    """Tell whether the code runs in a notebook, which shows pictures."""
    # A notebook's kernel has imported IPython before it runs anything. Its application
    # distinguishes it from IPython in a terminal, which shows no pictures.
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def escaped(text: object) -> str:
    """Return a text as HTML shows it."""
    return html.escape(str(text))


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    marked: Sequence[bool] = (),
) -> str:
    """Return a table; everything in it is shown as it is, also what looks like HTML.

    Args:
        caption: string, what stands above.
        header: sequence of strings, the names of the columns.
        rows: sequence of rows, each as long as the header.
        marked: sequence of booleans, one per row, which rows stand out. Defaults to none.
    """
    marked = marked or [False] * len(rows)
    lines = [f"<p><b>{escaped(caption)}</b></p>", "<table>", _row("th", header)]
    lines += [_row("td", row, mark) for row, mark in zip(rows, marked, strict=True)]
    return "\n".join([*lines, "</table>"])


def _row(tag, cells, mark=False):
    # Half transparent, so that it suits light and dark pages.
    style = ' style="background: rgba(213, 94, 0, 0.25)"' if mark else ""
    filled = []
    for cell in map(str, cells):
        own = _CELL + "; white-space: nowrap" * (len(cell) <= _SHORT)
        filled.append(f'<{tag} style="{own}">{escaped(cell)}</{tag}>')
    return f"<tr{style}>{''.join(filled)}</tr>"
