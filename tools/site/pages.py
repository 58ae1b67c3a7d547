"""Pages that come from outside of `docs/`, and links in all of them that the site can follow."""

import ast
import os
import pathlib
import re
import shutil

import jupytext

from tools.site.names import ROOT, definition, links, pages

DOCS = ROOT / "docs"
GENERATED = DOCS / "generated"
GALLERY = GENERATED / "examples"
# Files in Markdown that are pages too, and where they go.
MIRRORED = {
    ROOT / "CONTRIBUTING.md": GENERATED / "contributing.md",
    ROOT / "CHANGELOG.md": GENERATED / "changelog.md",
    ROOT / "benchmarks/README.md": GENERATED / "benchmarks.md",
    ROOT / "examples/README.md": GENERATED / "example_results.md",
    ROOT / "experiments/README.md": GENERATED / "experiments.md",
    ROOT / "lessons/README.md": GENERATED / "lessons.md",
    **{
        path: GENERATED / "experiments" / f"{path.parent.name}.md"
        for path in sorted((ROOT / "experiments").glob("*/README.md"))
    },
}
EXAMPLES = [p for p in sorted((ROOT / "examples").glob("*.py")) if not p.stem.startswith("_")]
LESSONS = sorted((ROOT / "lessons").glob("[0-9]_*.py"))
# Pictures in docs/images that bear another name than their example.
PICTURES = {
    "backprop_visualizer": "backprop",
    "schedule_explorer": "schedules",
    "training_dashboard": "dashboard",
}
FIRST_CELL = """\
# Run it in the folder `examples`: what the examples share is in _shared.py there. The arguments of
# the command line, here none, are sys.argv[1:].
import sys

sys.argv, __file__ = ["notebook"], "notebook.py"
"""
LESSON = """\
[This lesson as a notebook]({0}.ipynb), with [_exercises.py](../../../lessons/_exercises.py) in the
same folder; or, in a clone, `jupytext --to ipynb lessons/{0}.py`. [How to run it](../lessons.md).
"""
HEADER = """\
Examples
========

Each shows one idea and runs by itself, ``python examples/NAME.py``, in half a minute or so. A page
has the script, and the same as a notebook to download (only ``multi_worker``, which starts itself
again, must be a script). Both need :download:`_shared.py </../examples/_shared.py>` beside them,
and the extra ``examples``.
:doc:`Their results, also on larger data </generated/example_results>`.
"""
CHILDREN = """
```{toctree}
:hidden:
:glob:

experiments/*
```
"""

_FENCE = re.compile(r"(^ *```.*?^ *```[^\n]*$)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"(^#.*$)", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^)\s]+)\)|(?<![\[`])`([^`\n]+)`(?![`\]])")


def picture(stem):
    """Return the path of an example's picture, or `None`."""
    path = DOCS / "images" / f"{PICTURES.get(stem, stem)}.png"
    return path if path.is_file() else None


def rows():
    """Return {example: (what it shows, CPU seconds, result)} from the table of the examples."""
    table = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*) \|$", _text("examples/README.md"), re.M
    )
    return {name: rest for name, *rest in table}


def _text(path):
    return (ROOT / path).read_text()


class ExampleOrder:
    """Sort key of the examples: as their table has them, the quickstart first."""

    def __init__(self, folder):
        pass

    def __call__(self, filename):
        """Return the row of an example's file in the table."""
        order = list(rows())
        stem = pathlib.Path(filename).stem
        return order.index(stem) if stem in order else len(order)


def _place(path):
    """Return the page that a file of the repository becomes, or `None`."""
    if path in EXAMPLES:
        return GALLERY / f"{path.stem}.rst"
    if path in LESSONS:
        return GENERATED / "lessons" / f"{path.stem}.md"
    return path if path.is_relative_to(DOCS) else MIRRORED.get(path)


def relink(text, source, page):
    """Return a page's Markdown with links that lead where its files and names are on the site.

    Args:
        text: Markdown.
        source: path of the file that it is from, which its links are relative to.
        page: path of the page that it becomes.

    Returns:
        The text. Links to files that are no page leave their text; code in the text that names an
        example, a lesson or a public name becomes a link.
    """

    def link(found):
        image, label, target, code = found.groups()
        if code is not None:
            name = code.split("(")[0]
            script = ROOT / code
            if script in EXAMPLES + LESSONS:
                return f"[`{code}`]({os.path.relpath(_place(script), page.parent)})"
            return f"{{py:obj}}`{code} <{links()[name]}>`" if name in links() else found[0]
        path, _, fragment = target.partition("#")
        if ":" in target or not path:
            return found[0]
        place = _place((source.parent / path).resolve())
        if place is None:
            return label
        fragment = f"#{fragment}" if fragment else ""
        return f"{image}[{label}]({os.path.relpath(place, page.parent)}{fragment})"

    def linked(part):
        blocks = _HEADING.split(part)  # every other block is a heading
        blocks[::2] = (_LINK.sub(link, block) for block in blocks[::2])
        return "".join(blocks)

    parts = _FENCE.split(text)  # every other part is a fence
    parts[::2] = map(linked, parts[::2])
    return "".join(parts)


def markdown(path):
    """Return a document's Markdown; of a lesson its cells, those of code fenced."""
    if path not in LESSONS:
        return path.read_text()
    return "\n\n".join(
        f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source
        for cell in jupytext.read(path).cells
    )


def write_lesson(path, folder):
    """Write a lesson's page and the notebook to download from it; return the page's path."""
    page = folder / f"{path.stem}.md"
    title, text = markdown(path).split("\n", 1)
    page.write_text(f"{title}\n\n{LESSON.format(path.stem)}{relink(text, path, _place(path))}\n")
    jupytext.write(jupytext.read(path), page.with_suffix(".ipynb"))
    return page


def script(source, name):
    """Return an example's source as the gallery wants it: its title underlined, its result told."""
    doc = ast.get_docstring(ast.parse(source), clean=False)
    title, _, rest = doc.partition("\n")
    text = rest.strip()
    if name in rows():
        _, seconds, result = rows()[name]
        text += f"\n\n**Result**, in {seconds} CPU seconds: {result}."
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    title, text = (re.sub(r"`([^`]+)`", r"``\1``", part) for part in (title.rstrip("."), text))
    opening, end = source.index('"""') + 3, source.index('"""', source.index('"""') + 3)
    thumbnail = picture(name)
    comment = (
        f'\n# sphinx_gallery_thumbnail_path = "images/{thumbnail.name}"\n' if thumbnail else ""
    )
    prose = f"{title}\n{'=' * len(title)}\n\n{text}\n"
    return source[:opening] + prose + source[end:] + comment


def _title(name):
    short = name.removeprefix("keras_bp.")
    return f"{short}\n{'=' * len(short)}\n"


def module_page(module, names):
    """Return the page of a public module: its docstring, and a table of its names."""
    own = [name for name, page in names.items() if page == f"{module}.{name}"]
    others = [page for page in names.values() if page not in pages()]
    others = [page for page in others if page.rpartition(".")[0] != module]
    text = f"{_title(module)}\n.. automodule:: {module}\n\n.. currentmodule:: {module}\n"
    for lead, entries in (("", own), ("Also here:\n", others)):
        if entries:
            table = "".join(f"   ~{entry.removeprefix(f'{module}.')}\n" for entry in entries)
            text += f"\n{lead}\n.. autosummary::\n   :nosignatures:\n\n{table}"
    return text


def name_page(page):
    """Return the page of a public name. It is found from its module's, not from the sidebar."""
    module, name = page.rsplit(".", 1)
    kind = {ast.ClassDef: "class", ast.FunctionDef: "function"}.get(
        type(definition(page)[0]), "data"
    )
    options = {"class": "   :members:\n", "function": "", "data": "   :no-value:\n"}[kind]
    return (
        f":orphan:\n\n{_title(page)}\nIn :py:mod:`{module}`.\n\n"
        f".. currentmodule:: {module}\n\n.. auto{kind}:: {name}\n{options}"
    )


def _one_title(text):
    """Return Markdown with the headings from its second title on a level lower: a page has one."""
    titles, parts = 0, _FENCE.split(text)
    for at in range(0, len(parts), 2):  # every other part is a fence
        lines = parts[at].split("\n")
        for number, line in enumerate(lines):
            titles += line.startswith("# ")
            if titles > 1 and line.startswith("#"):
                lines[number] = f"#{line}"
        parts[at] = "\n".join(lines)
    return "".join(parts)


def prepare():
    """Write the pages of the public names, and those that come from outside of `docs/`."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    scripts = GENERATED / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "GALLERY_HEADER.rst").write_text(HEADER)
    for path in EXAMPLES:
        (scripts / path.name).write_text(script(path.read_text(), path.stem))
    (GENERATED / "api").mkdir()
    for module, names in pages().items():
        (GENERATED / "api" / f"{module}.rst").write_text(module_page(module, names))
    for page in set(links().values()):
        (GENERATED / "api" / f"{page}.rst").write_text(name_page(page))
    for path, page in MIRRORED.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        text = relink(_one_title(path.read_text()), path, page)
        page.write_text(text + CHILDREN if page.stem == "experiments" else text)
    (GENERATED / "lessons").mkdir()
    for path in LESSONS:
        write_lesson(path, GENERATED / "lessons")
    (GENERATED / "static").mkdir()
    (GENERATED / "static" / "backprop_page.html").write_text(moons_page())


def moons_page():
    """Return the page of backpropagation to click through, of examples/backprop_page.py.

    The program is the package's; the numbers of a training are kept beside this file.
    """
    template = (ROOT / "keras_bp/visualization/backprop_page.html").read_text()
    numbers = pathlib.Path(__file__).with_name("moons.html").read_text()
    return template.replace("<!-- data -->", numbers)


def read(app, docname, source):
    """Rewrite a page as it is read: links of Markdown, and the picture of an example."""
    path = DOCS / f"{docname}.md"
    if path.is_file() and not path.is_relative_to(GENERATED):
        source[0] = relink(source[0], path, path)
        if docname == "index":  # its patterns leave room for pages that may not be there yet
            source[0] = re.sub(
                r"^[\w/]+\*\n",
                lambda p: p[0] if any(DOCS.glob(f"{p[0].strip()}.md")) else "",
                source[0],
                flags=re.M,
            )
    elif docname.startswith("generated/examples/") and (image := picture(path.stem)):
        code = source[0].index(".. GENERATED FROM PYTHON SOURCE LINES", source[0].index("====="))
        show = f".. image:: /images/{image.name}\n   :alt: What this example draws\n\n"
        source[0] = source[0][:code] + show + source[0][code:]
