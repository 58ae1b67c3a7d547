"""A residual network that one core trains: seven convolutions of 3 x 3, 78,714 weights.

It is the network of He et al., 2016, "Deep residual learning for image recognition", section 4.2,
with one block per stage, projections on the skips where the size changes, and a first convolution
that halves images of 28 x 28 and above, which makes a step three times as fast.
"""

import keras

from keras_bp.layers import BatchNormalization, Dense

STAGES = 3


def convolve(x, filters, size=3, strides=1):
    """Apply a convolution without bias, then batch normalization, whose offset is the bias."""
    convolution = keras.layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )
    return BatchNormalization(momentum=0.9)(convolution(x))


def residual_block(x, filters, strides):
    relu = keras.ops.relu
    y = convolve(relu(convolve(x, filters, strides=strides)), filters)
    if strides > 1 or x.shape[-1] != filters:
        x = convolve(x, filters, size=1, strides=strides)
    return relu(x + y)


def build_model(shape, width):
    """Return the network for images of a shape: stages of `width`, twice and four times as many.

    Its outputs are the logits of ten classes.
    """
    images = keras.Input(shape)
    x = keras.ops.relu(convolve(images, width, strides=2 if shape[0] >= 28 else 1))
    for stage in range(STAGES):
        x = residual_block(x, width * 2**stage, strides=1 if stage == 0 else 2)
    return keras.Model(images, Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
