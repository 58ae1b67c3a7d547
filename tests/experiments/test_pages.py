"""Every experiment is a folder with a script, a page and a test, and stands in the table."""

import re

import pytest

from experiments import study
from tests.experiments.conftest import EXPERIMENTS

FOLDERS = sorted(path.parent for path in EXPERIMENTS.glob("*/__main__.py"))
NARROWING = [
    ("generalization", "--dataset", "cifar10"),
    ("optimizer_trials", "--tasks", "saddle"),
    ("optimizer_trials", "--optimizers", "SGD"),
    ("recommender", "--timing"),
    ("rescue", "--faults", "a missing target, NaN"),
    ("schedule_discovery", "--problems", "digits"),
    ("schedule_discovery", "--methods", "constant"),
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_experiment_is_whole(folder):
    page = (folder / "README.md").read_text()
    assert page.count(study.BEGIN) == page.count(study.END) == 1
    assert f"python experiments/{folder.name} --full" in page
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page):
        assert (folder / picture).exists(), picture
    assert (
        f"| [`{folder.name}`]({folder.name}/README.md) |" in (EXPERIMENTS / "README.md").read_text()
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_experiment_has_a_short_and_a_recorded_form(folder, experiment):
    module = experiment(folder.name)
    assert set(module.SIZES) == {"quick", "full"}
    assert f"python experiments/{folder.name}" in module.__doc__
    with pytest.raises(SystemExit):
        module.main(["--quick", "--full"])
    with pytest.raises(SystemExit, match="--processes must be at least 1. Received: 0"):
        module.main(["--processes", "0"])


@pytest.mark.parametrize(("name", "option", "values"), [(n, o, v) for n, o, *v in NARROWING])
def test_a_part_of_an_experiment_is_not_recorded(name, option, values, experiment):
    module = experiment(name)
    with pytest.raises(SystemExit, match=f"--record must come without {option}"):
        module.main(["--full", "--record", option, *values])
