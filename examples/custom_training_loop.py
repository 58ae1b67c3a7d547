"""A custom training loop, with every step of it in sight, to its end.

Run it with `python examples/custom_training_loop.py`. A `tf.GradientTape` loop trains a classifier
of scikit-learn's breast cancer data: He initializers, batch normalization, dropout, an L2 penalty
on the kernels, Adam with a cosine schedule and clipping by the global norm. After each epoch it
looks at the validation loss; when that has not fallen for some epochs, it stops, takes the best
weights back, saves the model to tb_logs/custom_training_loop, loads it again, and reports.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from _shared import CommandLine, patients
from sklearn.model_selection import train_test_split

from keras_bp.layers import BatchNormalization, Dense, Dropout
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import Adam
from keras_bp.schedules import CosineAnnealing

BATCH_SIZE = 32
RATE = 1e-3
CLIP_NORM = 1.0
SEED = 1


def build_model(features):
    def dense(units, activation, name):
        return Dense(
            units,
            activation,
            kernel_initializer=keras.initializers.HeNormal(),
            kernel_regularizer=keras.regularizers.L2(1e-4),
            name=name,
        )

    return keras.Sequential(
        [
            keras.Input((features,)),
            dense(64, "relu", "hidden_1"),
            BatchNormalization(name="norm_1"),
            Dropout(0.3, name="dropout_1"),
            dense(32, "relu", "hidden_2"),
            BatchNormalization(name="norm_2"),
            Dropout(0.3, name="dropout_2"),
            dense(1, "sigmoid", "output"),
        ],
        name="classifier",
    )


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=100, of="passes over the data at most")
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better one")
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(SEED)
    x, x_test, y, y_test = patients(SEED, "float32")
    x, x_valid, y, y_valid = train_test_split(x, y, test_size=0.2, stratify=y, random_state=SEED)
    # Without the incomplete last batch: its statistics would be those of a few examples.
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=SEED)
    batches = batches.batch(BATCH_SIZE, drop_remainder=True)

    model = build_model(x.shape[1])
    loss_function = BinaryCrossentropy()
    optimizer = Adam(CosineAnnealing(RATE, total_steps=options.epochs * len(batches)))

    def loss_and_gradients(x, y):
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            # The layers' penalties; in fit Keras adds them by itself.
            loss = loss_function(y, predictions) + tf.add_n(model.losses)
        return loss, tape.gradient(loss, model.trainable_variables)

    @tf.function
    def train_step(x, y):
        loss, gradients = loss_and_gradients(x, y)
        clipped, norm = tf.clip_by_global_norm(gradients, CLIP_NORM)
        optimizer.apply(clipped, model.trainable_variables)
        return loss, norm

    def evaluate(model, x, y):
        predictions = model(x, training=False)
        accuracy = keras.metrics.BinaryAccuracy()(y, predictions)
        return float(loss_function(y, predictions)), float(accuracy)

    best, best_epoch, best_weights, norms = float("inf"), 0, None, []
    for epoch in range(1, options.epochs + 1):
        loss = keras.metrics.Mean()
        for batch in batches:
            batch_loss, norm = train_step(*batch)
            loss.update_state(batch_loss)
            norms.append(float(norm))
        valid_loss, _ = evaluate(model, x_valid, y_valid)
        if valid_loss < best:
            best, best_epoch, best_weights = valid_loss, epoch, model.get_weights()
        print(
            f"epoch {epoch:>{len(str(options.epochs))}}/{options.epochs}  "
            f"loss {loss.result():.4f}  validation loss {valid_loss:.4f}  "
            f"learning rate {float(optimizer.learning_rate):.1e}" + "  best" * (epoch == best_epoch)
        )
        if epoch - best_epoch >= options.patience:
            break

    print("\nGradients over the whole training set, before clipping:")
    print(f"{'':26}  {'mean':>10}  {'std':>10}")
    _, gradients = loss_and_gradients(x, y)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        mean, deviation = tf.reduce_mean(gradient), tf.math.reduce_std(gradient)
        print(f"{variable.path:26}  {mean:10.2e}  {deviation:10.2e}")

    model.set_weights(best_weights)
    path = options.folder / "classifier.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)

    print(f"\n{epoch} epochs, the best was epoch {best_epoch}; its weights are in {path}")
    print(f"learning rate: {RATE:.1e} at first, {float(optimizer.learning_rate):.1e} at the end")
    clipped = sum(norm > CLIP_NORM for norm in norms) / len(norms)
    print(f"gradient norm: {max(norms):.2f} at most; {clipped:.0%} of {len(norms)} steps clipped")
    parts = {"training": (x, y), "validation": (x_valid, y_valid), "test": (x_test, y_test)}
    for part, data in parts.items():
        loss, accuracy = evaluate(loaded, *data)
        print(f"{part:10}  loss {loss:.4f}  accuracy {accuracy:.2%} of {len(data[0])}")
    print(f"test accuracy: {accuracy:.2%} of {len(x_test)} patients")


if __name__ == "__main__":
    main()
