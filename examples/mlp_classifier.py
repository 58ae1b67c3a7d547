"""Scikit-learn's MLPClassifier beside the same network here.

Run it with `python examples/mlp_classifier.py`. Both learn two interleaved moons, standardized,
with the same architecture, initial weights, batches, L2 penalty and rules: SGD with Nesterov
momentum, and Adam, for as many epochs as scikit-learn takes to stop. So they have the same losses
and end at the same network, up to rounding. L-BFGS stands beside them, which has no epochs and no
loss curve. It leaves a picture of boundaries and losses in tb_logs/mlp_classifier.
"""

import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _shared import CommandLine, standardize, tidy
from matplotlib.figure import Figure
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from keras_bp.layers import Dense
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import SGD, Adam

HIDDEN = (64, 32)
BATCH_SIZE = 32  # it divides the 800 points, so that no batch is shorter
ALPHA = 1e-4
SEED = 42
# A name, scikit-learn's arguments, and the same rule here.
RULES = {
    "sgd": (
        dict(solver="sgd", learning_rate_init=0.01, momentum=0.9, nesterovs_momentum=True),
        lambda: SGD(0.01, momentum=0.9, nesterov=True),
    ),
    "adam": (
        dict(solver="adam", learning_rate_init=0.001, beta_1=0.9, beta_2=0.999),
        lambda: Adam(0.001, epsilon=1e-8),
    ),
    "lbfgs": (dict(solver="lbfgs"), None),
}


def load_data():
    """Return (train points, test points, train labels, test labels)."""
    x, y = make_moons(1000, noise=0.2, random_state=SEED)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=SEED)
    return *standardize(x, x_test), y, y_test


def fit_sklearn(x, y, epochs, **arguments):
    """Return an MLPClassifier that has stopped where its loss no longer falls."""
    options = dict(alpha=ALPHA, batch_size=BATCH_SIZE, max_iter=epochs, random_state=SEED)
    classifier = MLPClassifier(HIDDEN, shuffle=False, **options, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops when it is told to
        # Products as small as L-BFGS's take forty times as long where threads share them.
        with threadpool_limits(1):
            return classifier.fit(x, y)


def first_weights(x, y):
    """Return the arrays that an MLPClassifier of this seed starts from, kernels and biases."""
    # A step of length 0 leaves them as they were drawn.
    start = MLPClassifier(HIDDEN, solver="sgd", learning_rate_init=1e-300, random_state=SEED)
    start.partial_fit(x, y, classes=[0, 1])
    return [array for pair in zip(start.coefs_, start.intercepts_, strict=True) for array in pair]


def fit_here(x, y, epochs, optimizer):
    """Return a function of points, a trained network's probabilities of class 1, and the losses."""
    # scikit-learn adds alpha / 2 times the squares to the sum of a batch's losses, not their mean.
    penalty = keras.regularizers.L2(ALPHA / 2 / BATCH_SIZE)
    layers = [Dense(units, "relu", kernel_regularizer=penalty) for units in HIDDEN]
    layers.append(Dense(1, kernel_regularizer=penalty))
    model = keras.Sequential([keras.Input((x.shape[1],)), *layers])
    model.set_weights(first_weights(x, y))
    model.compile(optimizer, BinaryCrossentropy(from_logits=True))
    fit = dict(batch_size=BATCH_SIZE, epochs=epochs, shuffle=False, verbose=0)
    losses = model.fit(x, y[:, None], **fit).history["loss"]
    return lambda points: keras.ops.convert_to_numpy(keras.ops.sigmoid(model(points)))[:, 0], losses


def draw(predictors, curves, x, y, path):
    """Write a picture of each network's probability of class 1, and of the losses."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    across, up = np.meshgrid(np.linspace(-2.4, 2.4, 120), np.linspace(-2.5, 2.5, 100))
    plane = np.stack([across.ravel(), up.ravel()], axis=1)
    for (side, rule), predict in predictors.items():
        ax = axes[int(side == "keras_bp"), list(RULES).index(rule)]
        levels = np.linspace(0, 1, 11)
        shares = predict(plane).reshape(across.shape)
        ax.contourf(across, up, shares, levels, cmap="RdBu_r", alpha=0.7)
        ax.contour(across, up, shares, [0.5], colors="black", linewidths=1)
        ax.scatter(*x.T, c=y, cmap="RdBu_r", s=12, edgecolors="white", linewidths=0.5)
        ax.set_title(f"{side}: {rule}", fontsize=10)
        ax.set_axis_off()
    ax = axes[1, 2]  # L-BFGS has no other side
    for (side, rule), losses in curves.items():
        style = "--" if side == "keras_bp" else "-"
        color = "black" if side == "keras_bp" else None
        ax.plot(range(1, len(losses) + 1), losses, style, color=color, label=f"{side}: {rule}")
    ax.set_title("Training loss of each epoch", fontsize=10)
    ax.set(ylim=(0, None), xlabel="epochs")
    ax.legend(frameon=False, fontsize=8)
    tidy(ax)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=500, of="passes over the 800 points at most")
    options = parser.parse_args(arguments)

    # Losses and layers compute as scikit-learn does: float32's rounding would grow to 5e-4.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    x, x_test, y, y_test = load_data()
    print(f"{'':19}epochs{'loss: training':>16}{'test':>8}{'accuracy: training':>20}{'test':>8}")
    predictors, curves = {}, {}
    for rule, (arguments, optimizer) in RULES.items():
        classifier = fit_sklearn(x, y, options.epochs, **arguments)
        sides = {"scikit-learn": lambda points, c=classifier: c.predict_proba(points)[:, 1]}
        if optimizer is not None:
            curves["scikit-learn", rule] = classifier.loss_curve_
            sides["keras_bp"], losses = fit_here(x, y, classifier.n_iter_, optimizer())
            curves["keras_bp", rule] = losses
        for side, predict in sides.items():
            predictors[side, rule] = predict
            parts = [(predict(x), y), (predict(x_test), y_test)]
            losses = [log_loss(labels, shares) for shares, labels in parts]
            accuracies = [np.mean((shares > 0.5) == labels) for shares, labels in parts]
            row = "{:6} {:12}{:6}{:16.4f}{:8.4f}{:20.2%}{:8.2%}"
            print(row.format(rule, side, classifier.n_iter_, *losses, *accuracies))

    print(f"\n{'largest difference':19}{'of a probability':>17}{'of a loss':>11}   first losses")
    sides = ("scikit-learn", "keras_bp")
    for rule in dict.fromkeys(rule for _, rule in curves):
        shares = [predictors[side, rule](x_test) for side in sides]
        losses = [np.array(curves[side, rule]) for side in sides]
        apart = [np.abs(there - here).max() for there, here in (shares, losses)]
        print("{:19}{:17.1e}{:11.1e}".format(rule, *apart))
        for side, values in zip(sides, losses, strict=True):
            print(f"{side:>47}   {np.round(values[:6], 4)}")

    draw(predictors, curves, x_test, y_test, options.folder / "networks.png")
    print(f"\npicture of boundaries and losses: {options.folder / 'networks.png'}")
    accuracy = np.mean((predictors["keras_bp", "adam"](x_test) > 0.5) == y_test)
    print(f"test accuracy: {accuracy:.2%} of {len(x_test)} points with our Adam")


if __name__ == "__main__":
    main()
