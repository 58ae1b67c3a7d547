"""Adam's step, which several rules make with coefficients of their own."""

import tensorflow as tf

from keras_bp.optimizers._descend import descend

# Elements up to which plain operations are faster than the kernel, which spreads every array, be it
# a bias of ten, over all threads.
_SMALL = 2**15


def adam_step(variable, gradient, mean, square, size, epsilon, beta_1, beta_2):
    """Move the two averages, and the variable along their quotient.

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w -= size m / (sqrt(v) + eps)

    Args:
        variable: `tf.Variable`, w.
        gradient: tensor of its shape and dtype, g.
        mean: `tf.Variable`, m.
        square: `tf.Variable`, v.
        size: scalar tensor of its dtype, as the ones below.
        epsilon: scalar tensor, eps.
        beta_1: scalar tensor, b1.
        beta_2: scalar tensor, b2.
    """
    if variable.shape.num_elements() > _SMALL:
        # With powers of 0 the kernel's own correction is 1: it is in `size` already.
        none = tf.zeros((), variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=mean.handle,
            v=square.handle,
            beta1_power=none,
            beta2_power=none,
            lr=size,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=gradient,
        )
        return
    descend(mean, 1 - beta_1, mean - gradient)
    descend(square, 1 - beta_2, square - tf.square(gradient))
    descend(variable, size, mean / (tf.sqrt(square) + epsilon))
