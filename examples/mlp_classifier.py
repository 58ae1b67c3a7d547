"""Scikit-learn's MLPClassifier beside the same network here.

Run it with `python examples/mlp_classifier.py`. Both learn two interleaved moons with the same
architecture, initial weights, batches, L2 penalty and rules: SGD with Nesterov momentum, with plain
momentum, and Adam. So they end at the same network, up to rounding. L-BFGS stands beside them for
comparison. It leaves a picture of the boundaries in tb_logs/mlp_classifier.
"""

import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _shared import CommandLine
from matplotlib.figure import Figure
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from keras_bp.layers import Dense
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import SGD, Adam

HIDDEN = (16, 16)
BATCH_SIZE = 30  # it divides the 600 points, so that no batch is shorter
ALPHA = 1e-4
SEED = 0
# A name, scikit-learn's arguments, and the same rule here.
RULES = {
    "sgd, nesterov": (
        dict(solver="sgd", learning_rate_init=0.02, momentum=0.9, nesterovs_momentum=True),
        lambda: SGD(0.02, momentum=0.9, nesterov=True),
    ),
    "sgd, momentum": (
        dict(solver="sgd", learning_rate_init=0.02, momentum=0.9, nesterovs_momentum=False),
        lambda: SGD(0.02, momentum=0.9),
    ),
    "adam": (
        dict(solver="adam", learning_rate_init=0.003),
        lambda: Adam(0.003, epsilon=1e-8),
    ),
    "lbfgs": (dict(solver="lbfgs", max_iter=1000), None),
}


def load_data():
    """Return (train points, test points, train labels, test labels)."""
    x, y = make_moons(1000, noise=0.2, random_state=SEED)
    return train_test_split(x, y, test_size=0.4, stratify=y, random_state=SEED)


def fit_sklearn(x, y, epochs, **arguments):
    """Return an MLPClassifier that has made all its epochs, or L-BFGS's iterations."""
    if arguments["solver"] != "lbfgs":
        arguments |= dict(batch_size=BATCH_SIZE, shuffle=False)
        arguments |= dict(max_iter=epochs, n_iter_no_change=epochs)  # no early stop
    classifier = MLPClassifier(HIDDEN, alpha=ALPHA, random_state=SEED, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops when it is told to
        return classifier.fit(x, y)


def first_weights(x, y):
    """Return the arrays that an MLPClassifier of this seed starts from, kernels and biases."""
    # A step of length 0 leaves them as they were drawn.
    start = MLPClassifier(HIDDEN, solver="sgd", learning_rate_init=1e-300, random_state=SEED)
    start.partial_fit(x, y, classes=[0, 1])
    return [array for pair in zip(start.coefs_, start.intercepts_, strict=True) for array in pair]


def fit_here(x, y, epochs, optimizer):
    """Return a function of points that gives a trained network's probabilities of class 1."""
    # scikit-learn adds alpha / 2 times the squares to the sum of a batch's losses, not their mean.
    penalty = keras.regularizers.L2(ALPHA / 2 / BATCH_SIZE)
    layers = [Dense(units, "relu", kernel_regularizer=penalty) for units in HIDDEN]
    layers.append(Dense(1, kernel_regularizer=penalty))
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential([keras.Input((x.shape[1],)), *layers])
    model.set_weights(first_weights(x, y))
    model.compile(optimizer, BinaryCrossentropy(from_logits=True))
    model.fit(x, y[:, None], batch_size=BATCH_SIZE, epochs=epochs, shuffle=False, verbose=0)
    return lambda points: keras.ops.convert_to_numpy(keras.ops.sigmoid(model(points)))[:, 0]


def draw(predictors, x, y, path):
    """Write a picture of the probability of class 1 over the plane, for each network."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    axes = figure.subplots(2, len(RULES), sharex=True, sharey=True)
    across, up = np.meshgrid(np.linspace(-1.7, 2.7, 120), np.linspace(-1.3, 1.8, 100))
    plane = np.stack([across.ravel(), up.ravel()], axis=1)
    for ax in axes.flat:
        ax.set_axis_off()
    for (side, rule), predict in predictors.items():
        ax = axes[int(side == "keras_bp"), list(RULES).index(rule)]
        levels = np.linspace(0, 1, 11)
        shares = predict(plane).reshape(across.shape)
        ax.contourf(across, up, shares, levels, cmap="RdBu_r", alpha=0.7)
        ax.contour(across, up, shares, [0.5], colors="black", linewidths=1)
        ax.scatter(*x.T, c=y, cmap="RdBu_r", s=6, edgecolors="white", linewidths=0.2)
        ax.set_title(f"{side}: {rule}", fontsize=10)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=60, of="passes over the 600 points")
    options = parser.parse_args(arguments)

    x, x_test, y, y_test = load_data()
    print(f"{'':27}{'training loss':>14}{'test loss':>11}{'test accuracy':>15}", end="")
    print(f"{'largest difference of a probability':>37}")
    predictors = {}
    for rule, (arguments, optimizer) in RULES.items():
        classifier = fit_sklearn(x, y, options.epochs, **arguments)
        sides = {"scikit-learn": lambda points, c=classifier: c.predict_proba(points)[:, 1]}
        if optimizer is not None:
            sides["keras_bp"] = fit_here(x, y, options.epochs, optimizer())
        for side, predict in sides.items():
            predictors[side, rule] = predict
            accuracy = np.mean((predict(x_test) > 0.5) == y_test)
            losses = log_loss(y, predict(x)), log_loss(y_test, predict(x_test))
            print(f"{rule:14} {side:12}{losses[0]:14.4f}{losses[1]:11.4f}{accuracy:15.2%}", end="")
            apart = np.abs(predict(x_test) - sides["scikit-learn"](x_test)).max()
            print(f"{apart:37.1e}" if side == "keras_bp" else "")

    draw(predictors, x_test, y_test, options.folder / "boundaries.png")
    accuracy = np.mean((predictors["keras_bp", "adam"](x_test) > 0.5) == y_test)
    print(f"\npicture of the boundaries: {options.folder / 'boundaries.png'}")
    print(f"test accuracy: {accuracy:.2%} of {len(x_test)} points with our Adam")


if __name__ == "__main__":
    main()
