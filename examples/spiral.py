"""The NumPy network learns which of two spiral arms a point lies on.

Run it with `python examples/spiral.py`. It uses nothing but NumPy and `keras_bp.reference`:
[2, 16, 8, 1] units, Adam at 0.001 on a cosine schedule, mini-batches of 64, 2000 epochs.
"""

import argparse
import math

from keras_bp.reference import Adam, Network, cosine, gradient_check, spiral, train

BATCH_SIZE = 64


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2000, help="passes over the 400 points")
    epochs = parser.parse_args(arguments).epochs
    if epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {epochs}")

    X, Y = spiral()
    network = Network([2, 16, 8, 1])

    # Every 40th point is enough to reach all weights, and few points keep the ReLUs' inputs away
    # from 0, where a central difference measures no derivative.
    figure = gradient_check(network, X[:, ::40], Y[:, ::40])
    print(f"gradient check: relative difference {figure:.1e} (correct under 1e-7)")

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
