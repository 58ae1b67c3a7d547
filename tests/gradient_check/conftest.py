"""Gradients that are wrong in a chosen way, and the data to catch them with."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def with_gradient():
    """Make an identity whose gradient is passed through a function of it."""

    def make(change):
        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), change

        return identity

    return make
