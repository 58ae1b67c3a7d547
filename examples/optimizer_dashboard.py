"""A dashboard of optimizers, on several data sets and seeds.

Run it with `python examples/optimizer_dashboard.py`. Seven optimizers train the same networks on
scikit-learn's two moons and handwritten digits and on two spirals, from several
seeds. It prints a table and leaves a picture of convergence, accuracy and time in
tb_logs/optimizer_dashboard.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine, digits
from sklearn.datasets import make_moons

from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import SGD, Adam, AdamW, Momentum, Nesterov, RMSprop, ScheduleFreeAdamW
from keras_bp.reference import spiral
from keras_bp.visualization import compare_optimizers

BATCH_SIZE = 32
OPTIMIZERS = {
    "SGD": lambda: SGD(0.1),
    "Momentum": lambda: Momentum(0.5),  # an average: a tenth of the step at the rate of a sum
    "Nesterov": lambda: Nesterov(0.05),
    "RMSprop": lambda: RMSprop(0.005),
    "Adam": lambda: Adam(0.005),
    "AdamW": lambda: AdamW(0.005, exclude_from_decay="bias_and_normalization"),
    "ScheduleFreeAdamW": lambda: ScheduleFreeAdamW(0.01),
}


def load_data(name):
    """Return (training inputs, training labels, test inputs, test labels)."""
    if name == "two moons":
        return *make_moons(400, noise=0.2, random_state=0), *make_moons(
            400, noise=0.2, random_state=1
        )
    if name == "spiral":
        (x, y), (x_test, y_test) = spiral(seed=0), spiral(seed=1)  # the same arms, other noise
        return x.T, y[0], x_test.T, y_test[0]
    x, x_test, y, y_test = digits()
    return x, y, x_test, y_test


def make_model(x, y):
    hidden = dict(activation="relu", kernel_initializer="he_normal")
    classes = int(y.max()) + 1
    return keras.Sequential(
        [keras.Input(x.shape[1:]), Dense(32, **hidden), Dense(32, **hidden), Dense(classes)]
    )


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=30, of="passes over each data set")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument(
        "--datasets",
        nargs="+",
        choices=["two moons", "spiral", "digits"],
        default=["two moons", "spiral", "digits"],
    )
    options = parser.parse_args(arguments)

    comparison = compare_optimizers(
        make_model,
        OPTIMIZERS,
        {name: load_data(name) for name in options.datasets},
        SparseCategoricalCrossentropy(from_logits=True),
        epochs=options.epochs,
        batch_size=BATCH_SIZE,
        seeds=range(options.seeds),
    )
    print(comparison)

    picture = options.folder / "dashboard.png"
    comparison.plot().savefig(picture, dpi=100)
    print(f"\npicture of the comparison: {picture}")
    dataset = options.datasets[-1]
    accuracy = comparison.accuracies[dataset]["Adam"].mean()
    print(f"test accuracy: {accuracy:.2%} with Adam on {dataset}, the mean of all seeds")


if __name__ == "__main__":
    main()
