"""The chapter's data set: two spirals wound into each other."""

import numpy as np

from keras_bp.reference._checks import check_integer, check_number


def spiral(points_per_arm=200, turns=1.5, noise=0.02, seed=0):
    """Draw two spiral arms, one a class; no straight line parts them.

    A point at the share s in [0.1, 1) of arm k = 0, 1 lies at the radius s and the angle
    2 pi turns s + pi k, moved by normal noise in both coordinates.

    Args:
        points_per_arm: int >= 1. Defaults to 200.
        turns: float > 0, how often an arm winds round the centre. Defaults to 1.5.
        noise: float >= 0, the noise's standard deviation; the arms' outer ends have the
            radius 1. Defaults to 0.02.
        seed: int >= 0. Defaults to 0.

    Returns:
        X: float64 array of shape (2, 2 * points_per_arm), the coordinates.
        Y: float64 array of shape (1, 2 * points_per_arm), the arm, 0 or 1.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is out of range.

    Example:
        >>> from keras_bp.reference import spiral
        >>> X, Y = spiral()
        >>> X.shape, Y.shape, float(Y.mean())
        ((2, 400), (1, 400), 0.5)
    """
    points_per_arm = check_integer("points_per_arm", points_per_arm, 1)
    turns = check_number("turns", turns, 0.0, low_open=True)
    noise = check_number("noise", noise, 0.0)
    generator = np.random.default_rng(check_integer("seed", seed, 0))
    radius = np.tile(np.linspace(0.1, 1.0, points_per_arm), 2)
    arm = np.repeat([0.0, 1.0], points_per_arm)
    angle = 2.0 * np.pi * turns * radius + np.pi * arm
    X = radius * np.stack([np.cos(angle), np.sin(angle)])
    X += noise * generator.standard_normal(X.shape)
    return X, arm[np.newaxis, :]
