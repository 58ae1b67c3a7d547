"""The NumPy network learns which of two spiral arms a point lies on.

Run it with `python examples/spiral.py`. It uses nothing but NumPy and `keras_bp.reference`:
[2, 16, 8, 1] units, Adam at 0.001 on a cosine schedule, mini-batches of 64, 2000 epochs. Both arms
begin in the origin, where the gradient check meets every ReLU on its kink, and one point of two
is always wrong.
"""

import argparse
import math

from keras_bp.reference import (
    Adam,
    Network,
    cosine,
    generate_spiral_data,
    gradient_check,
    train,
)

BATCH_SIZE = 64


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2000, help="passes over the 400 points")
    epochs = parser.parse_args(arguments).epochs
    if epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {epochs}")

    X, Y = generate_spiral_data()
    network = Network([2, 16, 8, 1], initialization="by_activation")

    # Some points of each arm reach all weights; those near the origin come close to the ReLUs'
    # kinks, where a central difference measures no derivative.
    check = gradient_check(network, X[:, 20::40], Y[:, 20::40])
    print(f"gradient check: relative difference {check:.1e} ({check.verdict})")
    # All biases are 0, so the origin itself puts each hidden unit exactly on its kink.
    check = gradient_check(network, X[:, :5], Y[:, :5])
    print(f"with the origin: {check.explanation}")

    steps_per_epoch = math.ceil(X.shape[1] / BATCH_SIZE)
    optimizer = Adam(cosine(0.001, epochs * steps_per_epoch))
    interval = max(1, epochs // 10)

    def report(epoch, cost):
        if epoch % interval == 0 or epoch == epochs:
            accuracy = network.accuracy(X, Y)
            print(
                f"epoch {epoch:>{len(str(epochs))}}/{epochs}  cost {cost:.4f}  "
                f"accuracy {accuracy:7.2%}  learning rate {optimizer.rate:.1e}"
            )

    train(network, X, Y, optimizer, epochs=epochs, batch_size=BATCH_SIZE, on_epoch_end=report)
    print(f"training accuracy: {network.accuracy(X, Y):.2%}")


if __name__ == "__main__":
    main()
