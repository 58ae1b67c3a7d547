"""Bad input is refused in words, and combiners go through their configuration."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from combiner_cases import RULES

from keras_bp import multitask

MEAN = multitask.Mean()
GRADIENT = tf.ones((2,))


def two_losses(persistent=True):
    v = tf.Variable([1.0, 2.0])
    with tf.GradientTape(persistent=persistent) as tape:
        losses = [tf.reduce_sum(v), tf.reduce_sum(v**2)]
    return tape, losses, [v]


REFUSED = [
    (lambda: multitask.PCGrad(reduction="max"), ValueError, "`reduction` must be"),
    (lambda: multitask.PCGrad(seed=-1), ValueError, "`seed` must be"),
    (lambda: multitask.PCGrad(seed=0.5), TypeError, "`seed` must be"),
    (lambda: multitask.CAGrad(c=-0.1), ValueError, "`c` must be"),
    (lambda: multitask.CAGrad(c=np.inf), ValueError, "`c` must be"),
    (lambda: multitask.CAGrad(c="0.5"), TypeError, "`c` must be"),
    (lambda: MEAN(tf.ones((3,))), ValueError, r"`jacobian` must have the shape \(T, P\)"),
    (lambda: MEAN(tf.ones((0, 3))), ValueError, "`jacobian` must have the shape"),
    (lambda: MEAN(tf.ones((2, 3, 1))), ValueError, "`jacobian` must have the shape"),
    (lambda: MEAN(tf.ones((2, 3), tf.int32)), TypeError, "`jacobian` must be a floating-point"),
    (lambda: MEAN.weights(tf.ones((2, 3))), ValueError, r"`gramian` must have the shape \(T, T\)"),
    (lambda: MEAN.weights(tf.ones((2, 2)), [True]), ValueError, "`present` must be"),
    (lambda: MEAN.weights(tf.ones((2, 2)), [1, 1]), ValueError, "`present` must be"),
    (lambda: MEAN.gradients(*two_losses(False)), ValueError, "`tape` must be persistent"),
    (lambda: MEAN.gradients(two_losses()[0], [], []), ValueError, "`losses` must hold one"),
    (lambda: MEAN.gradients(two_losses()[0], [None], []), ValueError, "`losses` must hold one"),
    (lambda: MEAN.gradients(two_losses()[0], [1.0], []), TypeError, "`losses` must hold tensors"),
    (lambda: MEAN.gradients(two_losses()[0], GRADIENT, []), TypeError, "`losses` must be a list"),
    (lambda: MEAN.gradients(two_losses()[0], [GRADIENT], []), ValueError, "must be scalars"),
    (lambda: MEAN.gradients(*two_losses()[:2], GRADIENT), TypeError, "`variables` must be"),
    (lambda: MEAN.combine_tasks(GRADIENT), TypeError, "`task_gradients` must hold"),
    (lambda: MEAN.combine_tasks([]), ValueError, "`task_gradients` must hold"),
    (lambda: MEAN.combine_tasks([[GRADIENT], []]), ValueError, "all of one length"),
    (lambda: MEAN.combine_tasks([[GRADIENT], [tf.ones((3,))]]), ValueError, "of one shape"),
    (lambda: MEAN.combine_tasks([[GRADIENT]], [1.0, 2.0]), ValueError, "`losses` must hold a loss"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_it_is_refused_in_words(number):
    call, error, message = REFUSED[number]
    with pytest.raises(error, match=f"{message}.*Received: "):
        call()


def test_the_bounds_themselves_are_allowed():
    assert multitask.CAGrad(c=0).c == 0.0
    assert multitask.PCGrad(seed=0).get_config() == {"reduction": "sum", "seed": 0}


ARGUMENTS = {"PCGrad": {"reduction": "mean", "seed": 3}, "CAGrad": {"c": 0.25}}


@pytest.mark.parametrize("name", RULES)
def test_a_combiner_goes_through_its_configuration(name):
    combiner = RULES[name](**ARGUMENTS.get(name, {}))
    assert keras.saving.get_registered_object(f"keras_bp>{name}") is RULES[name]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(combiner))
    assert type(again) is RULES[name] and again.get_config() == combiner.get_config()
    rows = tf.constant(np.random.default_rng(2).normal(size=(4, 6)))
    np.testing.assert_array_equal(again(rows), combiner(rows))
    assert repr(again) == repr(combiner)


def test_a_rule_that_is_missing_is_named():
    for base in multitask.Combiner, multitask.LossWeighting:
        with pytest.raises(TypeError, match="_weights"):
            base()
