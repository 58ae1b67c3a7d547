"""Optimizer, learning rate, schedule and weight decay tuned by Optuna.

Run it with `python examples/tuner.py`, after `pip install optuna`. A range test of each optimizer
gives the bounds of its learning rates; within them Optuna's sampler (TPE) looks for the best
accuracy on a validation part of scikit-learn's digits. The best choice is trained on all training
images and tested, beside Adam with its defaults. Optuna, and not KerasTuner, since it is released
several times a year, and its trials are plain functions.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine, digits
from sklearn.model_selection import train_test_split

from keras_bp import find_learning_rate
from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import AdamW, Nesterov, RMSprop
from keras_bp.schedules import WarmupCosine

OPTIMIZERS = {"AdamW": AdamW, "Nesterov": Nesterov, "RMSprop": RMSprop}
BATCH_SIZE = 32
SWEEP = 100  # steps of a range test
SEED = 0


def compiled(optimizer):
    keras.utils.set_random_seed(SEED)
    hidden = dict(activation="relu", kernel_initializer="he_normal")
    model = keras.Sequential([keras.Input((64,)), Dense(32, **hidden), Dense(10)])
    loss = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def bounds(x, y):
    """Return {optimizer's name: (lowest, highest) learning rate worth a trial}, by range tests."""
    rates = {}
    for name, optimizer in OPTIMIZERS.items():
        curve = find_learning_rate(compiled(optimizer()), x, y, steps=SWEEP)
        found = [curve.suggest(rule) for rule in ("valley", "slide", "steep", "minimum")]
        rates[name] = min(found), max(found)
    return rates


def train(choice, x, y, epochs):
    """Return a model trained as a trial's choice says."""
    rate = choice["rate of " + choice["optimizer"]]
    if choice["schedule"] == "warm-up and cosine":
        steps = epochs * -(-len(x) // BATCH_SIZE)
        rate = WarmupCosine(rate, steps, steps // 10)
    model = compiled(OPTIMIZERS[choice["optimizer"]](rate, weight_decay=choice["decay"]))
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    return model


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=8, of="passes over the images in a trial")
    parser.add_argument("--trials", type=int, default=20, help="choices to try")
    options = parser.parse_args(arguments)
    try:
        import optuna
    except ImportError:
        raise SystemExit("tuner.py needs Optuna: pip install optuna") from None

    x, x_test, y, y_test = digits(SEED)
    x_part, x_valid, y_part, y_valid = train_test_split(x, y, stratify=y, random_state=SEED)

    def accuracy(model, x, y):
        return model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]

    rates = bounds(x_part, y_part)
    for name, (low, high) in rates.items():
        print(f"{name:10} learning rates from {low:.1e} to {high:.1e}")

    def objective(trial):
        name = trial.suggest_categorical("optimizer", list(OPTIMIZERS))
        trial.suggest_float(f"rate of {name}", *rates[name], log=True)
        trial.suggest_categorical("schedule", ["constant", "warm-up and cosine"])
        trial.suggest_float("decay", 1e-4, 1.0, log=True)
        return accuracy(train(trial.params, x_part, y_part, options.epochs), x_valid, y_valid)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(n_startup_trials=8, seed=SEED)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=options.trials)
    best = study.best_trial
    print(f"\nbest of {options.trials} trials, number {best.number + 1}: {best.value:.2%}", end="")
    print(" of the validation images")
    for name, value in best.params.items():
        print(f"    {name}: {value if isinstance(value, str) else format(value, '.2g')}")

    default = compiled("adam")
    default.fit(x, y, batch_size=BATCH_SIZE, epochs=options.epochs, verbose=0)
    print(f"\nAdam with its defaults: {accuracy(default, x_test, y_test):.2%} of the test images")
    tuned = accuracy(train(best.params, x, y, options.epochs), x_test, y_test)
    print(f"test accuracy: {tuned:.2%} as tuned")


if __name__ == "__main__":
    main()
