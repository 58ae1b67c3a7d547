"""The index of the chapter, docs/chapter.md: every row names something that exists."""

import importlib
import pathlib
import re
import typing

import pytest

ROOT = pathlib.Path(__file__).parent.parent
INDEX = ROOT / "docs" / "chapter.md"
VERDICTS = ("full", "weaker", "missing")


class Row(typing.NamedTuple):
    demand: str
    where: str
    result: str
    verdict: str


def rows():
    """Return the index's rows; the errata are a table of three columns."""
    lines = re.findall(r"^\|(.*)\|$", INDEX.read_text(), re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    heads = ("Verdict", "---")
    return [Row(*row) for row in cells if len(row) == 4 and row[-1] not in heads]


def anchors(path):
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text):
    """Return the targets of Markdown links, but not of links to the web."""
    return re.findall(r"\]\((?!http)([^)\s]+)\)", text)


def missing_link(page, target):
    """Return whether a link from a page leads to no file, or to no heading of one."""
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    return not path.exists() or bool(anchor) and anchor not in anchors(path)


def missing_name(name):
    """Tell whether a path, a test (`path::name`) or a symbol of the package does not exist."""
    if not name.startswith("keras_bp."):
        path, _, test = name.partition("::")
        path = ROOT / path
        if (path / "__main__.py").is_file():  # an experiment
            return bool(test)
        return not path.is_file() or bool(test) and f"\ndef {test}(" not in path.read_text()
    found, *parts = name.split(".")
    found = importlib.import_module(found)
    for part in parts:
        if not hasattr(found, part):
            return True
        found = getattr(found, part)
    return False


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.demand)
def test_a_row_names_what_exists(row):
    names, targets = re.findall(r"`([^`]+)`", row.where), links(row.where)
    assert names or targets
    assert [name for name in names if missing_name(name)] == []
    assert [target for target in targets if missing_link(INDEX, target)] == []
    assert row.verdict in VERDICTS
    # What is not full says how it is not.
    assert row.verdict == "full" or len(row.result.split()) > 1


def test_the_rows_are_counted():
    counts = [sum(row.verdict == verdict for row in rows()) for verdict in VERDICTS]
    assert sum(counts) == 172  # what the chapter asks for
    sentence = "172 rows: {} full, {} weaker, {} missing.".format(*counts)
    assert sentence in INDEX.read_text()


@pytest.mark.parametrize(
    "page",
    [
        path
        for pattern in ("README.md", "docs/*.md", "docs/derivations/*.md")
        for path in sorted(ROOT.glob(pattern))
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page):
    assert [target for target in links(page.read_text()) if missing_link(page, target)] == []


def test_every_question_is_answered_and_shown():
    text = (ROOT / "docs" / "questions.md").read_text()
    _, multiple_choice, interview, _ = re.split(r"^## .*$", text, flags=re.MULTILINE)
    for section, number in ((multiple_choice, 11), (interview, 10)):
        answers = re.split(r"^\*\*(\d+)\. ", section, flags=re.MULTILINE)[1:]
        assert [int(n) for n in answers[::2]] == list(range(1, number + 1))
        for answer in answers[1::2]:
            shown = answer.partition("Shown by")[2]
            names = re.findall(r"`((?:keras_bp\.|\w+/)[^`]+)`", answer)
            assert links(shown) or names
            assert [name for name in names if missing_name(name)] == []


def results_of_examples():
    """Return the rows of the examples' table by name."""
    text = (ROOT / "examples" / "README.md").read_text()
    return {name: row for row, name in re.findall(r"^(\| `(\w+)` \|.*)$", text, re.MULTILINE)}


def percentages(text):
    """Return the numbers before a percent sign, each of "1.2 and 3.4 %"."""
    lists = re.findall(r"((?:[\d.]+(?:, | and | to |–))*[\d.]+) %", text)
    return {number for numbers in lists for number in re.findall(r"\d+\.\d+", numbers)}


def test_figures_of_examples_are_those_of_their_table():
    found = results_of_examples()
    cells = [(row.where, row.result) for row in rows() if "--" not in row.result]
    answers = (ROOT / "docs" / "questions.md").read_text().split("\n\n")
    for where, text in [*cells, *((answer, answer) for answer in answers)]:
        names = re.findall(r"`examples/(\w+)\.py`", where)
        if names and "experiments/" not in where:
            known = set().union(*(percentages(found[name]) for name in names))
            # 0.1 % is by how much a gradient is wrong, in a question.
            assert percentages(text) - {"0.1"} <= known, text
    assert percentages("61.7–69.7 % and 1.25 %; 1.0 at 3, 4.5 and 6.0 %") == {
        *("61.7", "69.7", "1.25", "4.5", "6.0")
    }


def test_what_does_not_exist_is_seen():
    assert missing_name("keras_bp.optimizers.Adamm") and missing_name("examples/adam.py")
    assert missing_name("tests/test_chapter.py::test_nothing")
    assert not missing_name("tests/test_chapter.py::test_the_rows_are_counted")
    assert missing_link(INDEX, "chapter.md#erratum") and missing_link(INDEX, "errata.md")
    assert not missing_link(INDEX, "#errata")
