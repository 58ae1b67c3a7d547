"""A custom training loop, with every step of it in sight.

Run it with `python examples/custom_training_loop.py`. A `tf.GradientTape` loop trains a classifier
of scikit-learn's breast cancer data: He initializers, batch normalization, dropout, an L2 penalty
on the kernels, a cosine schedule and clipping by the global norm. At the end it prints the mean and
the standard deviation of each variable's gradient.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from _shared import patients

from keras_bp.layers import BatchNormalization, Dense, Dropout
from keras_bp.losses import BinaryCrossentropy

BATCH_SIZE = 32
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training data")
    epochs = parser.parse_args(arguments).epochs
    if epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {epochs}")

    keras.utils.set_random_seed(SEED)
    x, x_test, y, y_test = patients(SEED, "float32")
    # Without the incomplete last batch: its statistics would be those of a few examples.
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=SEED)
    batches = batches.batch(BATCH_SIZE, drop_remainder=True)

    model = build_model(x.shape[1])
    loss_function = BinaryCrossentropy()
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, decay_steps=epochs * len(batches))
    optimizer = keras.optimizers.Adam(schedule)

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

    interval = max(1, epochs // 10)
    for epoch in range(1, epochs + 1):
        loss, norm = keras.metrics.Mean(), keras.metrics.Mean()
        for batch in batches:
            batch_loss, batch_norm = train_step(*batch)
            loss.update_state(batch_loss)
            norm.update_state(batch_norm)
        if epoch % interval == 0 or epoch == epochs:
            print(
                f"epoch {epoch:>{len(str(epochs))}}/{epochs}  loss {loss.result():.4f}  "
                f"gradient norm {norm.result():.3f} (clipped at {CLIP_NORM:g})  "
                f"learning rate {optimizer.learning_rate.numpy():.1e}"
            )

    accuracy = keras.metrics.BinaryAccuracy()(y_test, model(x_test, training=False))

    print("\nGradients over the whole training set, before clipping:")
    print(f"{'':26}  {'mean':>10}  {'std':>10}")
    _, gradients = loss_and_gradients(x, y)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        mean, deviation = tf.reduce_mean(gradient), tf.math.reduce_std(gradient)
        print(f"{variable.path:26}  {mean:10.2e}  {deviation:10.2e}")
    print(f"\ntest accuracy: {accuracy:.2%} of {len(x_test)} patients")


if __name__ == "__main__":
    main()
