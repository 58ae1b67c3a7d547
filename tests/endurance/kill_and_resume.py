"""Kill trainings at random moments, start them again, and compare with one that ran through.

    python tests/endurance/kill_and_resume.py --kills 200
    python tests/endurance/kill_and_resume.py --kills 50 --signal TERM

Each training runs in a child process, which gets the signal after a random time, up to that of a
whole training, and is started again until it ends. A line for each training that ended tells how
often it was killed and whether its final state is that of the uninterrupted one, bit for bit.

With TERM, of the trainings by `fit`, each process must end within 5 s, and no batch be trained
twice: what was done is saved.
"""

import argparse
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import traceback

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import trainings  # noqa: E402


def start(name, directory, result):
    """Start a training in a child process; return its number."""
    # Forked, as importing TensorFlow takes longer than a training. This process runs no
    # TensorFlow operation itself, and so has no threads that a fork would lose.
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        state = trainings.TRAININGS[name](directory)
        with open(f"{result}.part", "wb") as file:
            np.savez(file, **state)
        os.replace(f"{result}.part", result)
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end_of(child, seconds=None, number=signal.SIGKILL):
    """Wait for a child's end, signal it after some seconds; return whether that ended it."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, number)
            deadline, signalled = None, time.monotonic()
            _, status = os.waitpid(child, 0)
            if time.monotonic() - signalled > 5:
                raise RuntimeError("the process took more than 5 s to end")
            break
        time.sleep(0.001)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == number
    if os.WEXITSTATUS(status) not in (0, 128 + number):
        raise RuntimeError("a training failed; its error is above")
    return os.WEXITSTATUS(status) != 0


def kill_and_resume(name, uninterrupted, duration, kills, rng, folder, number):
    """Run a training to its end with up to some kills; return their number, and if it is equal."""
    directory, result = f"{folder}/checkpoints", f"{folder}/state.npz"
    done = 0
    while True:
        limit = rng.uniform(0, duration) if done < kills else None
        if not end_of(start(name, directory, result), limit, number):
            break
        done += 1
    state = np.load(result)
    equal = set(state) == set(uninterrupted) and all(
        np.array_equal(state[key], uninterrupted[key], equal_nan=True) for key in state
    )
    if number == signal.SIGTERM:
        with open(f"{directory}-count") as file:
            equal &= len(file.readlines()) == 5 * trainings.EPOCHS
    return done, equal


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="kills over all trainings")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    options = parser.parse_args(arguments)
    number = signal.Signals[f"SIG{options.signal}"]
    rng = random.Random(options.seed)
    kills = trainings_ended = unequal = 0
    uninterrupted, durations = {}, {}
    names = [n for n in trainings.TRAININGS if number == signal.SIGKILL or "loop" not in n]
    rng.shuffle(names)
    with tempfile.TemporaryDirectory() as folder:
        while kills < options.kills:
            name = names[trainings_ended % len(names)]
            own = f"{folder}/{trainings_ended}"
            os.makedirs(own)
            if name not in uninterrupted:
                began = time.monotonic()
                end_of(start(name, f"{own}/whole", f"{own}/whole.npz"))
                durations[name] = time.monotonic() - began
                uninterrupted[name] = np.load(f"{own}/whole.npz")
            most = min(10, options.kills - kills)
            done, equal = kill_and_resume(
                name, uninterrupted[name], durations[name], most, rng, own, number
            )
            kills, trainings_ended, unequal = (
                kills + done,
                trainings_ended + 1,
                unequal + (not equal),
            )
            print(f"{name:22} {done:3} kills  {'equal' if equal else 'NOT EQUAL'}", flush=True)
    print(f"{kills} kills, {trainings_ended} trainings ended, {unequal} not bit-equal")
    return unequal


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
