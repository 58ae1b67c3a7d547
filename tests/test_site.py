"""The documentation's site: what its pages are made of, and what its check finds."""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zlib

import jupytext
import pytest

import keras_bp
from tools.site import check, names, pages
from tools.site.docstrings import to_rst
from tools.site.equations import is_equation, latex

ROOT = pathlib.Path(__file__).parent.parent


def test_every_public_name_has_an_entry():
    assert check.names_without_entry() == []
    module = names.pages()["keras_bp.optimizers"]
    assert sorted(module) == sorted(keras_bp.optimizers.__all__)
    assert module["DeferredAdam"] == "keras_bp.deferred.DeferredAdam"
    assert names.links()["Adam"] == "keras_bp.optimizers.Adam"  # not the reference's
    assert not {"Sequential", "gradient_check", "rows"} & set(names.links())


def test_a_module_that_is_left_out_is_found(tmp_path):
    reference = tmp_path / "api.rst"
    text = (ROOT / "docs/api.rst").read_text()
    reference.write_text(text.replace("   keras_bp.ops\n", "   keras_bp.gone\n"))
    assert check.names_without_entry(reference) == [
        "api.rst must list keras_bp.ops",
        "api.rst lists keras_bp.gone, which has no __all__",
    ]


def test_links_of_the_documents_lead_to_files(tmp_path):
    assert check.broken_markdown_links(check.documents()) == []
    page = tmp_path / "page.md"
    page.write_text("[here](page.md#part) [there](gone.md) `[code](no.md)` [web](https://a.b/c)\n")
    assert check.broken_markdown_links([page]) == [f"{page}: no file gone.md"]


def test_broken_links_of_a_site_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="#top">1</a><a href="#gone">2</a><a href="b.html#x">3</a>'
        '<a href="c.html">4</a><img src="https://a.b/c.png">'
    )
    (tmp_path / "b.html").write_text('<p id="x"></p><a href="a.html#no">1</a>')
    assert check.broken_links(tmp_path) == [
        "a.html: no place #gone",
        "a.html: no file c.html",
        "b.html: no place a.html#no",
    ]


def test_a_name_that_a_site_leaves_out_is_found(tmp_path):
    listed = sorted({*names.pages(), *names.links().values()} - {"keras_bp.optimizers.Adam"})
    entries = "".join(f"{name} py:class 1 page.html#$ -\n" for name in listed)
    head = b"# Sphinx inventory version 2\n# Project: p\n# Version: 1\n# zlib\n"
    (tmp_path / "objects.inv").write_bytes(head + zlib.compress(entries.encode()))
    assert check.names_without_page(tmp_path) == ["keras_bp.optimizers.Adam has no page"]


def test_without_the_extra_the_site_says_what_to_install(tmp_path):
    (tmp_path / "furo.py").write_text("raise ImportError('none')")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    environment = {"PYTHONPATH": str(tmp_path), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run(
        [shutil.which("bash"), ROOT / ".ci/docs"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert 'pip install -e ".[docs]"' in run.stdout


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "mean_k = 1/n sum_i w_i x_ik",
            r"\operatorname{mean}_{k} & = 1/n\, \sum_{i} \, w_{i}\, x_{ik}",
        ),
        ("dx = dgamma / sqrt(v_k + eps)", r"dx & = d\gamma / \sqrt{v_{k} + \epsilon}"),
        ("vh = v / (1 - b2^t)", r"\hat v & = v / (1 - b_2^{t})"),
        (
            "rate(t) = a0 f^floor(t / k)",
            r"\text{rate}(t) & = a_0\, f^{\operatorname{floor}(t / k)}",
        ),
        ("momentum b     w += v", r"\text{momentum}\ b & \quad w \ \text{+=}\  v"),
        (
            "w -= a m     epsilon_hat=True",
            r"w & \ \text{−=}\  a\, m \qquad \text{epsilon_hat}=\text{True}",
        ),
    ],
)
def test_a_formula_is_typeset(text, expected):
    assert is_equation([text])
    assert latex([text]) == [r"\begin{aligned}", expected, r"\end{aligned}"]


@pytest.mark.parametrize(
    "block",
    [
        ["with tf.GradientTape() as tape:", "    loss = model(x)"],
        ["model.fit(x, y)"],
        ['"he"      2 / n[l-1]      for ReLU'],
        ["fit -> traced step", "a <- b"],
        ["lowest      the rate of the sweep"],
    ],
)
def test_what_is_no_formula_is_left_as_it_is(block):
    assert not is_equation(block)
    assert to_rst(["Text:", "", *(f"    {line}" for line in block), "", "More."]) == [
        *["Text:", "", "", ".. code-block:: text", ""],
        *(f"    {line}" for line in block),
        *["", "", "More."],
    ]


def test_a_docstring_becomes_rst():
    text = """\
    Averages `x`s, unlike `Adam`: $\\frac12 x$, a * b_ and |z|.

    It is
    $$y = x.$$

    Args:
        x: a `(2,)` tensor, so that

                y_i = x_i

    Example:
        >>> `kept`
    """
    lines = to_rst(ast.get_docstring(ast.parse(f"r'''{text}'''"), clean=True).split("\n"))
    assert lines == [
        "Averages ``x``\\ s, unlike :py:obj:`Adam <keras_bp.optimizers.Adam>`: "
        ":math:`\\frac12 x`, a \\* b\\_ and \\|z\\|.",
        *["", "It is", "", ".. math::", "", "    y = x.", ""],
        *["", "Args:", "    x: a ``(2,)`` tensor, so that", ""],
        *["", "    .. math::", "", "        \\begin{aligned}", "        y_{i} & = x_{i}"],
        *["        \\end{aligned}", "", "", "Example:", "    >>> `kept`", ""],
    ]


def test_links_lead_where_files_are_on_the_site():
    source = ROOT / "docs/optimizers.md"
    text = "# `Adam`\n`Adam(1e-3)` [b\nc](../benchmarks/README.md#x) [t](../tests/README.md)\n"
    text += "```\n`Adam`\n```\n[0, 1) `Adam` [l](../lessons/1_backpropagation.py)\n"
    assert pages.relink(text, source, source) == (
        "# `Adam`\n{py:obj}`Adam(1e-3) <keras_bp.optimizers.Adam>` "
        "[b\nc](generated/benchmarks.md#x) t\n```\n`Adam`\n```\n"
        "[0, 1) {py:obj}`Adam <keras_bp.optimizers.Adam>` "
        "[l](generated/lessons/1_backpropagation.md)\n"
    )
    source = ROOT / "experiments/README.md"
    text = "![p](../docs/images/dropout.png) `examples/dropout.py`"
    assert pages.relink(text, source, pages.MIRRORED[source]) == (
        "![p](../images/dropout.png) [`examples/dropout.py`](examples/dropout.rst)"
    )


def test_a_lesson_is_a_page_and_a_notebook_with_its_code(tmp_path):
    path = pages.LESSONS[0]
    page = pages.write_lesson(path, tmp_path)
    code = jupytext.read(path).cells
    code = [cell.source for cell in code if cell.cell_type == "code"]
    text = page.read_text()
    assert re.findall(r"^```python\n(.*?)\n```$", text, re.M | re.S) == code
    assert text.startswith("# Lesson 1: ") and f"({path.stem}.ipynb)" in text
    notebook = json.loads((tmp_path / f"{path.stem}.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert ["".join(cell["source"]) for cell in cells] == code


def test_the_page_to_click_through_is_todays():
    """Its numbers are those of examples/backprop_page.py; the program is the package's."""
    page = pages.moons_page()
    template = (ROOT / "keras_bp/visualization/backprop_page.html").read_text()
    before, after = template.split("<!-- data -->")
    assert page.startswith(before) and page.endswith(after)
    assert "_static/backprop_page.html" in (ROOT / "docs/pictures.md").read_text()


@pytest.mark.parametrize("path", pages.EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_the_same_program_in_the_gallery(path):
    source = path.read_text()
    ours, theirs = (ast.parse(text) for text in (source, pages.script(source, path.stem)))
    assert [ast.dump(node) for node in ours.body[1:]] == [
        ast.dump(node) for node in theirs.body[1:]
    ]
    title, line, *_ = ast.get_docstring(theirs).split("\n")
    assert title.replace("``", "`") == ast.get_docstring(ours).split("\n")[0].rstrip(".")
    assert line == "=" * len(title)
