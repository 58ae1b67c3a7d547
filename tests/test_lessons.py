"""Every lesson runs, and its checks say what is wrong with an answer, never what is right."""

import ast
import inspect
import pathlib
import re
import runpy

import jupytext
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
LESSONS = sorted((ROOT / "lessons").glob("[0-9]_*.py"))
EXERCISES = runpy.run_path(str(ROOT / "lessons/_exercises.py"))
ANSWERS = runpy.run_path(str(ROOT / "tests/lesson_answers.py"))
README = (ROOT / "lessons/README.md").read_text()
# All that a check may say: the numbers in it are shapes, counts, places, m, and ratios of arrays.
SHAPE = r"\((\d+(, \d+)*,?)?\)"
PLACE = r"((result \d+|[a-zA-Z]\w*): )*"
SAYINGS = (
    "not answered yet: the function returns nothing|right|the value is wrong",
    "it raises RuntimeError: of the learner",
    r"the matrix is the wrong way round: transposed\?",
    r"return (\d+ results|numbers, not \w+|a dictionary with the keys \w+(, \w+)*)",
    rf"the shape is {SHAPE}, not {SHAPE}(: transposed\?|: is a[\w ]* sum[\w ()]+\?)?",
    rf"the shape is {SHAPE}, not {SHAPE}: (return one number|is an axis of [\w ()]+\?)",
    rf"the shape is {SHAPE}, not {SHAPE}: is an axis summed that must stay \(keepdims\)\?",
    r"\d+ of \d+ entries are (NaN or infinite|wrong, the first at \[[\d, ]*\])",
    r"(the sign is wrong)?(, and )?(m = \d+ times too (large|small): is [\w ]+\?)?",
    r"(the sign is wrong, and )?every entry is [\d.e+-]+ times what it should be",
)
SAYING = re.compile(rf"{PLACE}({'|'.join(SAYINGS)})")


def cells(path):
    """Return the cells of the notebook that jupytext makes of a lesson."""
    return jupytext.read(path).cells


def stubs(source):
    """Return the names of the functions of a cell whose body is but a docstring and `...`."""
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and ast.get_docstring(node)
        and [ast.unparse(statement) for statement in node.body[1:]] == ["..."]
    ]


def on_arrays(change, answer):
    """Apply a function to every array of an answer, which may be a tuple or a dictionary."""
    if isinstance(answer, dict):
        return {key: on_arrays(change, part) for key, part in answer.items()}
    if isinstance(answer, tuple):
        return tuple(on_arrays(change, part) for part in answer)
    return change(np.asarray(answer, float))


def reshaped(array):
    """Return the transpose of an array; one with another axis where that has the same shape."""
    return array.T if array.shape != array.shape[::-1] else np.stack([array, array])


def nudged(array):
    """Return an array with an error in its last entry alone, about the size of the largest."""
    wrong = array.copy()
    wrong.flat[-1] += 0.7 * (np.abs(array).max() or 1.0)
    return wrong


def without_epsilon(name):
    """Return the right answer to an exercise, but for an epsilon of 0."""
    return lambda *arguments: ANSWERS[name](*arguments[:-1], 0.0)


def never_moved_back(cost, theta, epsilon):
    gradient = np.empty_like(theta)
    for index in np.ndindex(theta.shape):
        theta[index] += epsilon
        above = cost(theta)
        theta[index] -= 2.0 * epsilon
        gradient[index] = (above - cost(theta)) / (2.0 * epsilon)
    return gradient


def epsilon_in_the_root(
    theta, m, v, gradient, t, rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8
):
    m, v = beta_1 * m + (1 - beta_1) * gradient, beta_2 * v + (1 - beta_2) * gradient**2
    root = np.sqrt(v / (1 - beta_2**t) + epsilon)
    return theta - rate * m / (1 - beta_1**t) / root, m, v


# Usual slips whose results are close to the right ones.
SLIPS = {
    "central_differences": [never_moved_back],
    "adam_step": [epsilon_in_the_root],
    **{
        name: [without_epsilon(name)]
        for name in ("batch_normalization_dx", "infer", "layer_normalization_dx")
    },
}


class Checks:
    """Stands for `check` while a lesson runs, and tries a right and wrong answers beside its own.

    Attributes:
        names: the functions that were checked, in order.
    """

    def __init__(self, check, printed):
        self.names, self._check, self._printed = [], check, printed

    def __call__(self, function, *arguments, **options):
        """Check the lesson's stub, then the answers."""
        name, batch = function.__name__, options.get("batch")
        answer = ANSWERS[name]
        assert inspect.signature(answer) == inspect.signature(function)
        self.names.append(name)
        self._printed()  # what the lesson has printed

        def says(answer):
            answer.__name__ = name
            self._check(answer, *arguments, **options)
            said = self._printed().removesuffix("\n").removeprefix(f"{name}: ")
            assert SAYING.fullmatch(said), said
            return said

        def changed(change):
            return lambda *given: on_arrays(change, answer(*given))

        def raises(*given):
            raise RuntimeError("of the learner")

        assert says(answer) == "right"
        assert "the sign is wrong" in says(changed(np.negative))
        assert "the shape is" in says(changed(reshaped))
        assert re.search("wrong|times", says(changed(nudged)))
        said = says(changed(lambda array: array * (batch or 3)))
        assert f"m = {batch} times too large" in said if batch else re.search("wrong|times", said)
        assert "it raises RuntimeError" in says(raises)
        for slip in SLIPS.get(name, ()):
            assert says(slip) != "right"
        assert says(function) == "not answered yet: the function returns nothing"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_and_checks_its_answers(path, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.chdir(tmp_path)
    import _exercises

    checks = Checks(_exercises.check, lambda: capsys.readouterr().out)
    monkeypatch.setattr(_exercises, "check", checks)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    namespace, asked = {"__name__": "__main__"}, []
    for number, cell in enumerate(cells(path)):
        if cell.cell_type == "code":
            asked += stubs(cell.source)
            exec(compile(cell.source, f"{path.name}, cell {number}", "exec"), namespace)
    assert sorted(checks.names) != [] and set(checks.names) == set(asked)
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_title_exercises_and_an_end(path):
    texts = [cell.source for cell in cells(path) if cell.cell_type == "markdown"]
    assert texts[0].startswith(f"# Lesson {path.stem[0]}: ")
    assert [text for text in texts[1:] if re.search("^# ", text, re.MULTILINE)] == []
    exercises = re.findall(r"^\*\*Exercise (\d+)\.\*\*", "\n".join(texts), re.MULTILINE)
    assert [int(n) for n in exercises] == list(range(1, len(exercises) + 1))
    assert 3 <= len(exercises) <= 5
    assert texts[-1].startswith("## Where to go on")
    assert re.search(r"\]\(\.\./docs/.*\)", texts[-1]) and "`keras_bp." in texts[-1]


def test_every_answer_is_asked_for():
    asked = [
        name
        for path in LESSONS
        for cell in cells(path)
        if cell.cell_type == "code"
        for name in stubs(cell.source)
    ]
    own = [name for name, value in ANSWERS.items() if inspect.isfunction(value)]
    assert sorted(asked) == sorted(name for name in own if not name.startswith("_"))


A = np.array([[1.0, -2.0, 3.0], [0.5, 0.0, 0.25]])


def test_a_rough_answer_is_known_by_its_sign_too():
    assert EXERCISES["fault"](1.0001, 1.0, rtol=1e-3) is None
    assert EXERCISES["fault"](-1.0001, 1.0, rtol=1e-3) == "the sign is wrong"
    assert EXERCISES["fault"](8.0008, 1.0, 8, rtol=1e-3).startswith("m = 8 times too large")


@pytest.mark.parametrize(
    "answer, expected, batch, said",
    [
        (None, A, None, "not answered yet"),
        (..., A, None, "not answered yet"),
        (A, A, 3, None),
        (A.tolist(), A, None, None),
        (A * (1 + 1e-7), A, None, None),
        (-A, A, 3, "the sign is wrong"),
        (3 * A, A, 3, "m = 3 times too large: is the mean over the examples missing?"),
        (A / 3, A, 3, "m = 3 times too small: is it divided by m twice?"),
        (-A / 3, A, 3, "the sign is wrong, and m = 3 times too small: is it divided by m twice?"),
        (3 * A, A, None, "every entry is 3 times what it should be"),
        (A * 1.00005, A, None, "every entry is 1.00005 times what it should be"),
        (0 * A, A, 3, "5 of 6 entries are wrong, the first at [0, 0]"),
        (A.T, A, 3, "the shape is (3, 2), not (2, 3): transposed?"),
        (A[:, :2].T, A[:, :2], 3, "the matrix is the wrong way round: transposed?"),
        (A, A.sum(axis=0), None, "the shape is (2, 3), not (3,): is a sum or mean over the"),
        (A[:1], A[0], None, "the shape is (1, 3), not (3,): is an axis of length 1 too many?"),
        (
            A[0],
            A[:1],
            None,
            "the shape is (3,), not (1, 3): is an axis of length 1 too few (keepdims)?",
        ),
        (A[:, 0], A, None, "the shape is (2,), not (2, 3)"),
        (A.sum(), A[:1], None, "the shape is (), not (1, 3): is an axis summed that must stay"),
        (A[0], 1.0, None, "the shape is (3,), not (): return one number"),
        (A * [1, 1, np.nan], A, None, "2 of 6 entries are NaN or infinite"),
        ("a", A, None, "return numbers, not str"),
        (2.0, 3.0, None, "the value is wrong"),
        (-3.0, 3.0, None, "the sign is wrong"),
        (0.0, 0.0, None, None),
        (1.0, 0.0, 4, "the value is wrong"),
        ((A, A), (A, -A), None, "result 2: the sign is wrong"),
        ((A,), (A, A), None, "return 2 results"),
        (A, (A, A, A), None, "return 3 results"),
        ({"w": A}, {"w": A, "b": A}, None, "return a dictionary with the keys w, b"),
        ({"b": A, "w": 2 * A}, {"w": A, "b": A}, 2, "w: m = 2 times too large"),
        ((None, A), (A, A), None, "result 1: not answered yet"),
    ],
)
def test_what_is_wrong_with_an_answer(answer, expected, batch, said):
    found = EXERCISES["fault"](answer, expected, batch)
    assert found is None if said is None else found.startswith(said)
    assert said is None or not said.endswith(")") or found == said
    assert SAYING.fullmatch(found or "right")


def test_an_answer_cannot_change_what_it_is_given(capsys):
    given = np.ones(2)

    def doubled(x):
        x *= 2
        return x

    EXERCISES["check"](doubled, given, expected=2 * given)
    assert capsys.readouterr().out == "doubled: right\n"
    assert given.tolist() == [1, 1]


def test_the_readme_lists_every_lesson():
    rows = re.findall(r"^\| \[(\d)\. (.*)\]\((\w+\.py)\) \|", README, re.MULTILINE)
    titles = [cells(path)[0].source.split("\n")[0] for path in LESSONS]
    assert [f"# Lesson {number}: {title}" for number, title, _ in rows] == titles
    assert [name for *_, name in rows] == [path.name for path in LESSONS]
    assert '-e ".[lessons]"' in README
