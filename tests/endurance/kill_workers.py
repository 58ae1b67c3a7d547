"""Kill workers of a training at random steps, and compare its end with one that ran through.

    python tests/endurance/kill_workers.py --kills 20

`python -m keras_bp.workers` starts the workers of examples/multi_worker.py, and all of them again
when one has died. Once the training is under way, this kills the first worker, another one, or all,
after a random time. In the end the weights must be those of a training that was not killed, bit for
bit, and the monitor's file must have every step.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading

import keras
import numpy as np

import keras_bp  # noqa: F401  (whose layers the model holds)

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "multi_worker.py"


def children(process):
    """List the processes that a process has started, in their order."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True)
    return sorted(int(number) for number in found.stdout.split())


def train(directory, options, kills=0, rng=None):
    """Run the example to its end; return the weights and how often it was killed."""
    command = [sys.executable, "-m", "keras_bp.workers", "--workers", str(options.workers)]
    command += ["--restarts", str(kills), str(EXAMPLE), "--epochs", str(options.epochs)]
    command += ["--save-every", "5", "--directory", str(directory)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    done, output, began = 0, [], False

    def kill():
        workers = children(process.pid)
        places = {"the first": workers[:1], "another": workers[-1:], "all": workers}
        place = rng.choice(list(places))
        print(f"kills {place}", flush=True)
        for worker in places[place]:
            try:
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:
                pass

    for line in process.stdout:
        output.append(line)
        if "starting all again" in line:
            began = False
        if "[0] Epoch" in line and not began:
            began = True
            if done < kills:
                done += 1
                # Over the time that the training takes, the end of the process included.
                threading.Timer(rng.uniform(0.0, options.seconds), kill).start()
    if process.wait():
        raise RuntimeError("the workers failed:\n" + "".join(output[-60:]))
    model = keras.models.load_model(pathlib.Path(directory) / "model.keras", compile=False)
    return model.get_weights(), sum("starting all again" in line for line in output)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=6.0, help="the latest kill of a start")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, _ = train(f"{folder}/whole", options)
        killed = unequal = trainings = 0
        while killed < options.kills:
            trainings += 1
            weights, times = train(f"{folder}/{trainings}", options, options.kills - killed, rng)
            killed += times
            equal = all(np.array_equal(*pair) for pair in zip(weights, whole, strict=True))
            unequal += not equal
            print(f"{times} kills  {'equal' if equal else 'NOT EQUAL'}", flush=True)
    print(f"{killed} kills, {trainings} trainings ended, {unequal} not bit-equal")
    return unequal


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
