"""The synthetic interactions follow their law and ranking its definition; the script runs."""

import hashlib
import json
import sys

import keras
import numpy as np
import pytest

import keras_bp
from tests.experiments.conftest import EXPERIMENTS

TINY = {
    "synthetic": {"users": 60, "items": 300, "rank": 2, "strength": 2.0, "each": 20},
    "columns": 4,
    "batch": 32,
    "steps": 12,
    "file_steps": 6,
    "looks": 3,
    "judged": 50,
    "seeds": 1,
    "grid": True,
    "rounds": 1,
    "rows": [400],
    "memory": {"timing": 0.1, "training": 0.1},
}


@pytest.fixture
def recommender(experiment):
    return experiment("recommender")


def test_items_are_drawn_by_softmax_without_replacement(recommender):
    scores, rng = np.log(np.array([5.0, 3.0, 1.5, 0.5], "float32")), np.random.default_rng(1)
    drawn = np.stack([recommender.interactions.draw(scores, 2, rng) for _ in range(20_000)])
    p = np.exp(scores) / np.exp(scores).sum()
    for first in range(4):
        assert np.mean(drawn[:, 0] == first) == pytest.approx(p[first], abs=0.015)
        for second in set(range(4)) - {first}:
            both = np.mean((drawn[:, 0] == first) & (drawn[:, 1] == second))
            assert both == pytest.approx(p[first] * p[second] / (1 - p[first]), abs=0.015)
    assert np.all(drawn[:, 0] != drawn[:, 1])


def test_the_draw_keeps_the_first_arrivals_of_all_items(recommender):
    scores = np.random.default_rng(2).normal(size=5000).astype("float32")
    drawn = recommender.interactions.draw(scores, 7, np.random.default_rng(3))
    times = np.random.default_rng(3).standard_exponential(5000, dtype="float32")
    assert drawn.tolist() == np.argsort(times * np.exp(-scores))[:7].tolist()


def test_each_user_takes_different_items_that_are_split_in_three(recommender):
    make = recommender.interactions.synthetic
    data = make(**TINY["synthetic"], seed=4)
    pairs = np.concatenate([data.train, data.validation, data.test])
    assert len(np.unique(pairs, axis=0)) == len(pairs) == 60 * 20
    for part, number in ((data.train, 16), (data.validation, 2), (data.test, 2)):
        assert np.bincount(part[:, 0], minlength=60).tolist() == [number] * 60
    again, other = make(**TINY["synthetic"], seed=4), make(**TINY["synthetic"], seed=5)
    assert np.array_equal(again.train, data.train) and not np.array_equal(other.train, data.train)
    users, items, bias = data.truth
    assert np.std(users @ items.T) == pytest.approx(2.0, rel=0.25)
    places = np.exp(-bias).round().astype(int)
    assert sorted(places) == list(range(1, 301)) != places.tolist()


def test_ranking_is_that_of_its_definition(recommender):
    rng = np.random.default_rng(6)
    users, items, bias = rng.normal(size=(230, 3)), rng.normal(size=(90, 3)), rng.normal(size=90)
    pairs = np.unique(rng.integers([230, 90], size=(900, 2)), axis=0)
    seen, wanted = pairs[::3], np.concatenate([pairs[1::3], pairs[2::3]])
    found = recommender.ranking.rank_items(users, items, bias, wanted, seen, first=5)
    recalls, gains, hits = [], [], np.zeros(len(wanted), bool)
    for user in np.unique(wanted[:, 0]):
        scores = items @ users[user] + bias
        scores[seen[seen[:, 0] == user, 1]] = -np.inf
        best = np.argsort(-scores)[:5].tolist()
        own = wanted[wanted[:, 0] == user, 1].tolist()
        for place in np.flatnonzero(wanted[:, 0] == user):
            hits[place] = wanted[place, 1] in best
        dcg = sum(1 / np.log2(best.index(item) + 2) for item in own if item in best)
        largest = min(5, len(own))
        recalls.append(len(set(best) & set(own)) / largest)
        gains.append(dcg / sum(1 / np.log2(place + 2) for place in range(largest)))
    assert found["recall"] == pytest.approx(np.mean(recalls), abs=1e-12)
    assert found["ndcg"] == pytest.approx(np.mean(gains), abs=1e-12)
    assert found["hit"].tolist() == hits.tolist()


def test_no_ranking_is_better_than_the_true_scores(recommender):
    data = recommender.interactions.synthetic(**TINY["synthetic"], seed=7)
    users, items, bias = data.truth
    known = np.concatenate([data.train, data.validation])
    rank = recommender.ranking.rank_items
    recall = [
        rank(users * u, items, bias * b, data.test, known)["recall"]
        for u, b in ((1, 1), (0, 1), (1, 0))
    ]
    assert recall[0] > max(recall[1:])


def test_batches_are_passes_through_all_pairs(recommender):
    data = recommender.interactions.synthetic(**TINY["synthetic"], seed=8)
    taken = [batch.numpy() for batch in recommender.towers.batches(data, 32, 60, seed=1)]
    assert [batch.shape for batch in taken] == [(32, 2)] * 60
    pairs = np.concatenate(taken)
    first, second = pairs[:960], pairs[960:]
    assert np.array_equal(np.unique(first, axis=0), np.unique(data.train, axis=0))
    assert not np.array_equal(first, second)


def test_the_steps_to_a_recall_lie_on_the_line_between_two_looks(recommender):
    curve = [0.1, 0.3, 0.25, 0.5]
    assert recommender.tables.steps_to(0.2, curve, 40) == pytest.approx(15)
    assert recommender.tables.steps_to(0.05, curve, 40) == pytest.approx(5)
    assert recommender.tables.steps_to(0.4, curve, 40) == pytest.approx(36)
    assert recommender.tables.steps_to(0.6, curve, 40) is None


def test_the_steps_to_the_target_count_the_seeds_that_reach_it(recommender):
    results = [{"curve": [0.1, 0.3]}, {"curve": [0.3, 0.2]}]
    cells = recommender.tables.to_target
    assert cells([0.2, 0.15], results, 40, 0.5) == ("20 ± 14", "10.0 ± 7.1")
    assert cells([0.2, 0.35], results, 40, 0.5) == ("1 of 2 seeds reached it", "")
    assert cells([0.4], results[:1], 40, 0.5) == ("0 of 1 seed reached it", "")


def test_the_best_look_is_shown_where_it_is_not_the_last(recommender):
    best = recommender.tables.best_look
    last, second = {"curve": [0.1, 0.4, 0.3, 0.4]}, {"curve": [0.1, 0.6, 0.3, 0.4]}
    assert best([last], 40) == "0.4000 ± 0.0000"
    assert best([second, second], 40) == "0.4000 ± 0.0000, 0.6000 ± 0.0000 (20)"
    assert best([last, second], 40) == "0.4000 ± 0.0000, 0.5000 ± 0.1414 (20 to 40)"


def test_the_bands_count_the_interactions_of_the_test(recommender):
    data = recommender.interactions.synthetic(**TINY["synthetic"], seed=12)
    job = {"data": "synthetic", "limits": True, "bands": [100, 1000, 10_000]}
    found = recommender.limits(job, None, lambda name: data)
    first = np.argsort(-data.counts(), kind="stable")[:100]
    inside = np.isin(data.test[:, 1], first).sum()
    assert found["bands"] == [inside, 120 - inside, 0, 0] and inside > 60


def test_adam_and_deferred_adam_train_the_same_model(recommender):
    data = recommender.interactions.synthetic(**TINY["synthetic"], seed=9)
    job = {key: TINY[key] for key in ("columns", "batch", "looks", "judged")}
    job |= {"data": "synthetic", "rate": 0.03, "seed": 1, "steps": 90, "test": True}
    adam, deferred, lazy = (
        recommender.train(job | {"optimizer": name}, None, lambda name: data, lambda folder: [])
        for name in ("Adam", "DeferredAdam", "LazyAdam, global")
    )
    assert deferred["curve"] == pytest.approx(adam["curve"], abs=0.011)  # one item of 100
    assert deferred["test_recall"] == pytest.approx(adam["test_recall"], abs=0.011)
    assert adam["recall"] > adam["curve"][0] and lazy["curve"] != adam["curve"]


def test_an_interrupted_training_resumes(recommender, tmp_path):
    data = recommender.interactions.synthetic(**TINY["synthetic"], seed=11)
    job = {key: TINY[key] for key in ("columns", "batch", "looks", "judged", "steps")}
    job |= {"data": "synthetic", "rate": 0.03, "seed": 1, "test": True, "optimizer": "Adam"}

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("interrupted")

    def train(folder, *more):
        return recommender.train(
            job,
            tmp_path / folder,
            lambda name: data,
            lambda folder: [*more, keras_bp.callbacks.ResumableTraining(folder)],
        )

    whole = train("whole")
    with pytest.raises(RuntimeError, match="interrupted"):
        train("parts", Stop())
    assert train("parts")["curve"] == whole["curve"]


def test_the_script_leaves_tables_and_picture(recommender, monkeypatch, tmp_path):
    monkeypatch.setitem(recommender.SIZES, "quick", TINY)
    towers, few = recommender.towers, ["Adam", "DeferredAdam"]
    timed = [*few, towers.KERAS]
    monkeypatch.setattr(recommender.timing, "SCALED", timed)
    monkeypatch.setattr(towers, "TIMED", {name: towers.TIMED[name] for name in timed})
    rules = {name: (*towers.RULES[name][:2], towers.RULES[name][2][:2]) for name in few}
    monkeypatch.setattr(towers, "RULES", rules)
    pairs = np.unique(np.random.default_rng(10).integers([30, 40], size=(400, 2)), axis=0)
    lines = [f'{user},"A title, of words",{item}' for user, item in pairs]
    (tmp_path / "few.csv").write_text("\n".join(["userId,title,movieId", *lines]))
    recommender.run("--ratings", "few.csv", "--out", "out")
    text = (tmp_path / "out/results.md").read_text()
    # Two tables of each data set, and that of the steps' times by the table's rows.
    assert text.count("| DeferredAdam |") == 5 and "| few.csv: DeferredAdam | " in text
    assert "| Optimizer | 300 items | 400 items |" in text
    assert "(true scores)" in text and (tmp_path / "out/recommender.png").exists()
    records = [
        json.loads(line) for line in (tmp_path / "out/records.jsonl").read_text().splitlines()
    ]
    jobs = [record["job"] for record in records]
    # The steps' time first. Of each data set 2 rates, up to 2 beyond, 2 at the end, the limits.
    assert ["timing" in job for job in jobs] == [True] * 3 + [False] * (len(jobs) - 3)
    assert 3 + 2 * (2 + 1 + 2 + 1) <= len(jobs) <= 3 + 2 * (2 + 2 + 2 + 1)
    digests = {job["sha256"] for job in jobs if job.get("data") == "few.csv"}
    assert digests == {hashlib.sha256((tmp_path / "few.csv").read_bytes()).hexdigest()[:12]}
    recommender.run("--timing", "--out", "out")  # is recorded: times nothing again
    assert len((tmp_path / "out/records.jsonl").read_text().splitlines()) == len(records)


def test_the_steps_are_timed_alone_before_any_training(recommender, monkeypatch, tmp_path, capsys):
    called, sizes = [], recommender.SIZES["full"]
    jobs = recommender.timing.jobs(recommender.data_sets(sizes), sizes)

    def call(command):
        """Do the first time nothing, as a process that fails; the second time record all."""
        called.append(command)
        if len(called) == 2:
            result = dict.fromkeys(recommender.towers.TIMED, [1.0, 1.0])
            lines = [
                json.dumps({"job": job, "result": result, "seconds": 1.0}) + "\n"
                for job in jobs.values()
            ]
            (tmp_path / "records.jsonl").write_text("".join(lines))
        return len(called) == 1

    monkeypatch.setattr(recommender.timing.subprocess, "call", call)
    monkeypatch.setattr(recommender.study, "check_memory", lambda gigabytes: None)
    popen = lambda *_, **__: pytest.fail("starts a process that trains")  # noqa: E731
    monkeypatch.setattr(recommender.study.subprocess, "Popen", popen)
    monkeypatch.setattr(recommender, "compare", lambda *_: sys.exit("compares"))
    arguments = ["--full", "--processes", "2", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="times the steps ended with an error"):
        recommender.main(arguments)
    for _ in range(2):  # the last one has the times
        with pytest.raises(SystemExit, match="compares"):
            recommender.main(arguments)
    command = [sys.executable, str(EXPERIMENTS / "recommender"), "--timing", "--full"]
    assert called == [[*command, "--out", str(tmp_path)]] * 2
    assert f"/{len(jobs)}]" not in capsys.readouterr().out  # that process has shown them


def test_the_page_has_both_data_sets(recommender):
    with pytest.raises(SystemExit, match="--record must come with --ratings: .* Received: none"):
        recommender.run("--full", "--record")


def test_the_memory_of_the_largest_tables_is_asked_for(recommender, monkeypatch):
    asked = []

    def refuse(gigabytes):
        asked.append(gigabytes)
        raise SystemExit

    monkeypatch.setattr(recommender.study, "check_memory", refuse)
    for processes in ("1", "8"):
        with pytest.raises(SystemExit):
            recommender.main(["--full", "--processes", processes])
    assert asked == [5.0, 12.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "which is no file"),
        ("a,b\n1,2\n", "a column user, user_id or userId. Received:"),
        (
            "user,b\n1,2\n",
            "a column item, item_id, itemId, movie, movie_id or movieId. Received:",
        ),
        ("userId;movieId\n1;2\n", "commas between columns. Received: 'userId;movieId'"),
        (
            "user,item,title\n1,2,Am\xe9lie\n".encode("latin-1"),
            "a CSV file in UTF-8. Received: the byte 0xe9",
        ),
        (b"\x1f\x8b\x08\x00\xff", "a CSV file in UTF-8. Received: the byte 0x8b .* no text$"),
        (f"user,item\n1,{'2' * 200_000}\n", "must be a CSV file. Received: field larger than"),
        ("user,item\n1,2\n", "must hold 100 pairs or more. Received: 1"),
        (
            "user,item\n" + "\n".join(f"{i},1" for i in range(100)),
            "5 items or more. Received: none",
        ),
        (
            "user,item,rating\n1,2,3\n\n1,2\n1,,3\n",
            r"3 columns in each row, .* Received: 2 other rows, the first in line 4: \['1', '2'\]",
        ),
    ],
)
def test_a_file_without_pairs_is_refused(recommender, tmp_path, text, message):
    if text is not None:
        (tmp_path / "ratings.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SystemExit, match=message):
        recommender.run("--ratings", "ratings.csv")


def test_a_file_counts_a_pair_once(recommender, tmp_path):
    rows = [f"{user},{item},5" for user in "abcdefghij" for item in range(12)]
    # As spreadsheets write it, with a mark of the byte order.
    text = "\n".join(["user_id,item,rating", *rows, rows[0]])
    (tmp_path / "r.csv").write_text(text, encoding="utf-8-sig")
    data = recommender.interactions.read(tmp_path / "r.csv")
    assert (data.users, data.items) == (10, 12)
    assert len(data.train) + len(data.validation) + len(data.test) == 120
