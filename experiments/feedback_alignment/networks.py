"""The convolutional networks that are compared: the same for each rule but for the way back."""

import keras

from keras_bp.feedback import direct_feedback_model
from keras_bp.layers import BatchNormalization, Dense, FeedbackConv2D, FeedbackDense

# The layers that decide how the error goes back. DFA is made of BP's network. "frozen" and "norm"
# leave the convolutions as they are: what a rule must beat to have taught them anything.
LAYERS = {
    "BP": (keras.layers.Conv2D, Dense, {}),
    "sign": (FeedbackConv2D, FeedbackDense, {"feedback": "sign"}),
    "FA": (FeedbackConv2D, FeedbackDense, {"feedback": "random"}),
    "DFA": (keras.layers.Conv2D, Dense, {}),
    "frozen": (keras.layers.Conv2D, Dense, {}),  # trains the output alone
    "norm": (keras.layers.Conv2D, Dense, {}),  # the offsets and scales of normalization too
}


def per_stage(depth):
    """Return how many of `depth` convolutions each of three stages has; the last has most."""
    return [(depth + stage) // 3 for stage in range(3)]


def build(rule, depth, shape, channels, seed):
    """Return a network of `depth` convolutions and a dense output of ten logits.

    Each stage begins with a convolution of stride 2, except that images of less than 16 pixels
    enter the first one at their full size. Batch normalization and ReLU follow each convolution.
    Frozen normalization lacks an offset and a scale, which begin at 0 and 1, but goes on to
    normalize by the batch: with `trainable=False` it would not.

    Args:
        rule: a key of `LAYERS`.
        depth: number of convolutions, 3 or more.
        shape: shape of an image, (height, width, channels).
        channels: filters of the convolutions in each of the three stages.
        seed: number that kernels and feedback are drawn from; kernels are the same for each rule.
    """
    convolution, dense, options = LAYERS[rule]
    scaled = rule != "frozen"
    keras.utils.set_random_seed(seed)
    layers, number = [keras.Input(shape)], 0
    for stage, count in enumerate(per_stage(depth)):
        for place in range(count):
            number += 1
            strides = 2 if place == 0 and (stage > 0 or shape[0] >= 16) else 1
            layers += [
                convolution(
                    channels[stage],
                    3,
                    strides,
                    padding="same",
                    use_bias=False,
                    kernel_initializer=keras.initializers.HeNormal(1000 * seed + number),
                    trainable=rule not in ("frozen", "norm"),
                    name=f"conv_{number}",
                    **options,
                ),
                BatchNormalization(center=scaled, scale=scaled, name=f"normalization_{number}"),
                keras.layers.ReLU(),
            ]
    first = keras.initializers.GlorotUniform(1000 * seed)
    layers += [
        keras.layers.Flatten(),
        dense(10, kernel_initializer=first, name="output", **options),
    ]
    model = keras.Sequential(layers)
    return direct_feedback_model(model, seed=seed) if rule == "DFA" else model
