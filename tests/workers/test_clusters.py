"""The start scripts of docs/clusters: what they make of the variables that the cluster sets."""

import json
import pathlib
import re
import subprocess
import textwrap

import pytest

from keras_bp.workers.multi_worker_strategy import _read_cluster

CLUSTERS = pathlib.Path(__file__).parents[2] / "docs" / "clusters"


def run(folder, command, programs, **variables):
    """Run a shell script with programs of these names that only write what they were given."""
    for name, status in programs.items():
        program = folder / name
        told = folder / f"{name}.told"
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {told}\nprintenv > {told}.env\nexit {status}\n'
        )
        program.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", **variables}
    return subprocess.run(["bash", *command], env=environment, cwd=folder).returncode


def test_the_manifest_of_kubernetes(tmp_path, monkeypatch):
    text = (CLUSTERS / "kubernetes.yaml").read_text()
    [script] = re.findall(r"args:\n +- \|\n(.*?)\n +volumeMounts:", text, re.DOTALL)
    script = textwrap.dedent(script).replace("exec python", "exec ./python")
    variables = {"WORKERS": "4", "JOB_COMPLETION_INDEX": "2"}
    assert run(tmp_path, ["-c", script], {"python": 0}, **variables) == 0
    assert (tmp_path / "python.told").read_text() == "train.py\n"
    environment = (tmp_path / "python.told.env").read_text()
    [config] = re.findall(r"^TF_CONFIG=(.*?\}\})$", environment, re.DOTALL | re.MULTILINE)
    monkeypatch.setenv("TF_CONFIG", config)
    assert _read_cluster() == ([(f"train-{n}.train", 2222) for n in range(4)], 2)
    assert json.loads(config)["task"]["type"] == "worker"


@pytest.mark.parametrize(
    "ends, restarts, again", [(0, None, False), (143, None, True), (1, "9", True), (1, "10", False)]
)
def test_the_script_of_slurm(ends, restarts, again, tmp_path):
    variables = {"SLURM_JOB_ID": "77"} | ({"SLURM_RESTART_COUNT": restarts} if restarts else {})
    programs = {"srun": ends, "scontrol": 0}
    assert run(tmp_path, [str(CLUSTERS / "slurm.sh")], programs, **variables) == ends
    assert (tmp_path / "srun.told").read_text().endswith(" python train.py\n")
    told = tmp_path / "scontrol.told"
    assert (told.read_text() if told.exists() else "") == ("requeue 77\n" if again else "")
