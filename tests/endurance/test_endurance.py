"""The short versions of kill_and_resume.py and kill_workers.py."""

import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


def run(script, *options):
    command = [sys.executable, HERE / script, *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_six_kills():
    output = run("kill_and_resume.py", "--kills", "6")
    assert re.search(r"^6 kills, \d+ trainings ended, 0 not bit-equal$", output, re.M)


@pytest.mark.long
def test_the_end_by_a_signal():
    output = run("kill_and_resume.py", "--kills", "6", "--signal", "TERM")
    assert re.search(r"^6 kills, \d+ trainings ended, 0 not bit-equal$", output, re.M)


@pytest.mark.long
def test_kills_of_workers():
    output = run("kill_workers.py", "--kills", "2")
    assert re.search(r"^2 kills, \d+ trainings ended, 0 not bit-equal$", output, re.M)
