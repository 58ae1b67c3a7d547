"""The experiment `rescue`: a harmed training beside the same one with `Rescue`."""

import re

import pytest


def test_a_bad_batch_is_skipped_and_a_rate_lowered(experiment, capsys):
    rescue = experiment("rescue")
    rescue.run("--faults", "NaN in an input", "rate 30 times too high, SGD")
    lines = capsys.readouterr().out.splitlines()
    for expected in (
        r"\| Fault \| Training \| Unharmed \| Harmed \| Rescued \|",
        r"\| NaN in an input \| .* \| 2\.30\d \| 0\.\d+ \| yes \| 2 skipped \|$",
        r"\| rate 30 times too high, SGD \| .* \| yes \| 1 lowered \|$",
        r"6 trainings, ",
    ):
        assert any(re.match(expected, line) for line in lines), expected


def test_what_a_killed_process_left_counts_for_nothing(experiment, tmp_path):
    rescue = experiment("rescue")
    (job,) = rescue.jobs_of("NaN in an input", "rescued", {"seeds": 1, "epochs": 1})
    half = tmp_path / "rescue/step-23.partial"
    half.mkdir(parents=True)
    (half / "batch.npz").write_text("half")
    result = rescue.measure(job, tmp_path)
    assert result["named"] and not half.exists()
    assert len(list((tmp_path / "rescue").iterdir())) == len(result["rescues"]) == 1


@pytest.mark.parametrize("losses", [[0.5, 0.2, 0.3], [0.1, 0.4, "ValueError"]])
def test_a_rescue_counts_by_its_median(experiment, losses):
    rescue = experiment("rescue")
    name = "a missing target, NaN"

    def runs(kind):
        values = losses if kind == "rescued" else [0.35, 0.2, 0.3]
        return [{"loss": value, "named": True, "rescues": []} for value in values]

    text = rescue.report({(name, kind): runs(kind) for kind in rescue.KINDS})
    rescued = 0 if "ValueError" in losses else 1  # the median of the others is 0.3
    assert f"{rescued} of 1 end, in the median, no higher" in text
