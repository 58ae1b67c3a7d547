"""`python -m keras_bp.workers`: several processes, whose end is one."""

import os
import signal
import textwrap
import threading
import time

import pytest

from keras_bp.workers import __main__ as local


@pytest.fixture
def script(tmp_path):
    """Return a function that writes a script, and returns its path."""

    def write(text):
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


def test_each_worker_has_its_place_and_its_lines(script, capfd):
    path = script("""
        import json, os, sys

        config = json.loads(os.environ["TF_CONFIG"])
        addresses = config["cluster"]["worker"]
        print(config["task"]["index"], len(set(addresses)), sys.argv[1:])
        print("last, without an end of line", end="")
    """)
    assert local.main(["--workers", "3", path, "--epochs", "2"]) == 0
    lines = capfd.readouterr().out
    for index in range(3):
        assert f"[{index}] {index} 3 ['--epochs', '2']\n" in lines
        assert f"[{index}] last, without an end of line\n" in lines


def test_one_that_fails_ends_the_others(script, capfd, monkeypatch):
    monkeypatch.setattr(local, "_GRACE_SECONDS", 0.5)
    path = script("""
        import os, signal, sys, time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # even those that do not listen
        if '"index": 1' in os.environ["TF_CONFIG"]:
            time.sleep(0.3)
            sys.exit("out of memory")
        time.sleep(600)
    """)
    started = time.monotonic()
    assert local.main([path]) == 1
    assert time.monotonic() - started < 60  # ten times what it takes; not 600
    captured = capfd.readouterr()
    assert "[1] out of memory" in captured.out
    assert "worker 1 ended with status 1" in captured.err


def test_all_start_again_after_a_kill(script, tmp_path, capfd):
    path = script("""
        import os, pathlib, signal, sys

        runs = pathlib.Path(sys.argv[1]) / str('"index": 1' in os.environ["TF_CONFIG"])
        with open(runs, "a") as file:
            file.write("x")
        if runs.stat().st_size < 3:
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert local.main(["--restarts", "9", path, str(tmp_path)]) == 0
    assert "was ended by signal 9; starting all again, 8 more times" in capfd.readouterr().err
    for name in ("True", "False"):
        (tmp_path / name).unlink()
    assert local.main(["--restarts", "1", path, str(tmp_path)]) == 128 + 9


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 0), (signal.SIGINT, 3)])
def test_a_signal_lets_the_workers_save(number, status, script, tmp_path, capfd):
    """Once, and none starts again; the exit status is that of the workers."""
    path = script("""
        import os, pathlib, signal, sys, time

        place = pathlib.Path(sys.argv[1]) / str('"index": 1' in os.environ["TF_CONFIG"])

        def save(number, frame):
            with open(place, "a") as file:
                file.write(f"{number} ")
            time.sleep(0.5)
            with open(place, "a") as file:
                file.write("saved")
            sys.exit(int(sys.argv[2]))

        signal.signal(int(sys.argv[3]), save)
        place.touch()
        time.sleep(600)
    """)
    places = [tmp_path / name for name in ("True", "False")]

    def interrupt():
        while not all(place.exists() for place in places):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    arguments = ["--restarts", "3", path, str(tmp_path), str(status), str(int(number))]
    assert local.main(arguments) == status
    thread.join()
    assert [place.read_text() for place in places] == [f"{number:d} saved"] * 2
    assert "starting all again" not in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as before


def test_workers_that_do_not_listen_are_ended_by_a_second_signal(script, tmp_path):
    path = script("""
        import os, pathlib, signal, sys, time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pathlib.Path(sys.argv[1], str('"index": 1' in os.environ["TF_CONFIG"])).touch()
        time.sleep(600)
    """)

    def interrupt():
        while len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.02)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert local.main([path, str(tmp_path)]) == 128 + signal.SIGKILL
    thread.join()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["gone.py"], "`script` must be a file"),
        (["--workers", "0", "gone.py"], "must be 1 or more"),
        (["--restarts", "-1", __file__], "must be 0 or more"),
    ],
)
def test_bad_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit):
        local.main(arguments)
    assert words in capsys.readouterr().err
