"""The short version of kill_and_resume.py."""

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def test_six_kills():
    command = [sys.executable, HERE / "kill_and_resume.py", "--kills", "6"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^6 kills, \d+ trainings ended, 0 not bit-equal$", run.stdout, re.M)
