"""Planted faults: what becomes of each training without `Rescue`, with it, and unharmed.

Run it with `python experiments/rescue`, which is `--quick`: one seed and two epochs. `--full`
plants each fault in one of seven trainings, in three seeds. It leaves the table in tb_logs/rescue.
"""

import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for what the experiments share
import study

# isort: split
import keras
import numpy as np
from faults import CLASSES, FAULTS, PLACE, TRAININGS

import keras_bp
from keras_bp.callbacks import Rescue

KINDS = ("unharmed", "harmed", "rescued")
SIZES = {"quick": {"seeds": 1, "epochs": 2}, "full": {"seeds": 3, "epochs": None}}


def compiled(training, rate=1.0):
    """Return the model, with a factor on its rate."""
    keras.config.set_dtype_policy(training.policy)
    try:
        model = training.model()
        model.compile(training.optimizer(rate), training.loss, auto_scale_loss=False)
        return model
    finally:
        keras.config.set_dtype_policy("float32")


def train(training, seed, fault, rescue, epochs):
    """Train; return the loss of the unharmed data at the end, and the share in the right class."""
    keras.utils.set_random_seed(seed)
    model = compiled(training, fault.rate if fault else 1.0)
    x, y = training.data()
    data = [x.copy(), y.copy(), np.ones(len(x), "float32")]
    callbacks = [rescue] if rescue else []
    if fault and fault.harm:
        fault.harm(*data)
    if fault and fault.jump != 1.0:

        def jump(epoch, rate):
            return rate * fault.jump if epoch == epochs // 2 else rate

        callbacks.append(keras.callbacks.LearningRateScheduler(jump))
    x_all, y_all, weights = data
    options = {"batch_size": training.batch_size, "epochs": epochs, "verbose": 0}
    try:
        model.fit(x_all, y_all, sample_weight=weights, callbacks=callbacks, **options)
    except Exception as error:
        return type(error).__name__, 0.0
    predicted = model.predict(x, batch_size=500, verbose=0).argmax(axis=-1)
    return float(model.evaluate(x, y, batch_size=500, verbose=0)), float(np.mean(predicted == y))


def is_harmed(part, whole):
    return np.array_equal(part, whole[PLACE], equal_nan=True)


def is_named(fault, rescue):
    """Tell whether the batch that was kept holds the harmed example, and `replay` names it."""
    if not rescue.rescues:
        return False
    if not fault.harm:
        return rescue.rescues[0].action == "lowered"
    x, y = TRAININGS[fault.training].data()
    data = [x.copy(), y.copy(), np.ones(len(x), "float32")]
    fault.harm(*data)
    for rescued in rescue.rescues:
        if rescued.path is None or rescued.action != "skipped":
            continue
        with np.load(pathlib.Path(rescued.path) / "batch.npz") as kept:
            batch = [kept[name] for name in ("x", "y", "sample_weight")]
        rows = range(len(batch[0]))
        if not any(all(map(is_harmed, (part[row] for part in batch), data)) for row in rows):
            return False
    return True


def measure(job, folder):
    """Train as a job says, and return what is recorded."""
    fault = FAULTS[job["fault"]] if job["kind"] != "unharmed" else None
    training = TRAININGS[job["training"]]
    rescue = Rescue(folder / "rescue", verbose=0) if job["kind"] == "rescued" else None
    shutil.rmtree(folder / "rescue", ignore_errors=True)  # of a process that was killed
    loss, right = train(training, job["seed"], fault, rescue, job["epochs"])
    result = {"loss": loss}
    if training.loss == CLASSES:
        result["right"] = right
    if rescue:
        result |= {
            "named": is_named(fault, rescue),
            "rescues": [[r.step, r.fault, r.action] for r in rescue.rescues],
            "factor": rescue.rate_factor,
            "says": explained(rescue, training),
        }
    return result


def jobs_of(name, kind, size):
    """Return the jobs of a fault, one for each seed; of the unharmed training, the same for all."""
    training = FAULTS[name].training
    settings = {"kind": kind, "training": training}
    settings["epochs"] = size["epochs"] or TRAININGS[training].epochs
    if kind != "unharmed":
        settings["fault"] = name
    return [{**settings, "seed": seed} for seed in range(size["seeds"])]


def explained(rescue, training):
    """Return what `replay` says of the first fault."""
    paths = [rescued.path for rescued in rescue.rescues if rescued.path]
    # A model of our own: Keras's `safe_mode` refuses a Lambda.
    return keras_bp.replay(paths[0], compiled(training)).description if paths else None


def report(runs):
    """Return the table of the results by (fault, kind), and what they come to."""
    rows, rescued = [], []
    faults = list(dict.fromkeys(name for name, _ in runs))
    for name in faults:
        losses = {kind: [run["loss"] for run in runs[name, kind]] for kind in KINDS}
        known = all(isinstance(loss, float) for loss in losses["rescued"])
        if known and np.median(losses["rescued"]) <= max(losses["unharmed"]):
            rescued.append(name)
        acts = [action for _, _, action in runs[name, "rescued"][0]["rescues"]]
        counted = ", ".join(f"{acts.count(act)} {act}" for act in dict.fromkeys(acts))
        named = "yes" if all(run["named"] for run in runs[name, "rescued"]) else "no"
        training = FAULTS[name].training
        rows.append([name, training, *map(shown, losses.values()), named, counted])
    header = ["Fault", "Training", "Unharmed", "Harmed", "Rescued", "Batch named"]
    text = study.table([*header, "Rescues, first seed"], rows)
    text += f"\n{len(rescued)} of {len(faults)} end, in the median, no higher than the highest of "
    text += "the unharmed seeds."
    rights = [run["right"] for name in rescued for run in runs[name, "rescued"] if "right" in run]
    if rights:
        text += f" At least {min(rights):.2%} of the digits are right in these."
    return text


def shown(losses):
    return ", ".join(loss if isinstance(loss, str) else f"{loss:.4g}" for loss in losses)


def main(arguments=None):
    """Run the experiment."""
    parser = study.parser(__doc__.splitlines()[0])
    parser.add_narrowing_argument(
        "--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME"
    )
    options = parser.parse_args(arguments)
    size = SIZES["full" if options.full else "quick"]
    runs = study.Study(__file__, options, arguments)
    jobs = {(name, kind): jobs_of(name, kind, size) for name in options.faults for kind in KINDS}
    runs.report(report(runs.run_named(jobs, measure)))


if __name__ == "__main__":
    main()
