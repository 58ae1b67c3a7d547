"""Rules in NumPy, line by line as their papers and Keras's code state them."""

import numpy as np


class Twin:
    """A rule applied to a list of arrays.

    Args:
        rule: function (t, w, g, *slots) that returns the next w and slots, in update t = 1, 2, ...
        starts: the slots' first values.
    """

    def __init__(self, rule, *starts):
        self.rule, self.starts, self.t, self.slots = rule, starts, 0, None

    def step(self, arrays, gradients):
        self.t += 1
        self.slots = self.slots or [self.starts] * len(arrays)
        moved = [
            self.rule(self.t, np.asarray(w, "float64"), np.asarray(g, "float64"), *slots)
            for w, g, slots in zip(arrays, gradients, self.slots, strict=True)
        ]
        self.slots = [slots for _, *slots in moved]
        return [w for w, *_ in moved]


def lion(t, w, g, m, a=3e-3, b1=0.9, b2=0.99):
    return w - a * np.sign(b1 * m + (1 - b1) * g), b2 * m + (1 - b2) * g


def adagrad(t, w, g, s, a=3e-3, eps=1e-3, inside=True):
    s = s + g**2
    return w - a * g / (np.sqrt(s + eps) if inside else np.sqrt(s) + eps), s


def adadelta(t, w, g, s, r, a=0.5, rho=0.9, eps=1e-3):
    s = rho * s + (1 - rho) * g**2
    d = np.sqrt(r + eps) / np.sqrt(s + eps) * g
    return w - a * d, s, rho * r + (1 - rho) * d**2


def adamax(t, w, g, m, u, a=3e-3, b1=0.9, b2=0.99, eps=1e-3):
    m, u = b1 * m + (1 - b1) * g, np.maximum(b2 * u, np.abs(g))
    return w - a / (1 - b1**t) * m / (u + eps), m, u


def nadam(t, w, g, m, v, a=3e-3, b1=0.9, b2=0.99, eps=1e-3, p=1.0):
    us = [b1 * (1 - 0.96 ** (p * k) / 2) for k in range(1, t + 2)]
    product = np.prod(us[:t])
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    d = us[t] * m / (1 - product * us[t]) + (1 - us[t - 1]) * g / (1 - product)
    return w - a * d / (np.sqrt(v / (1 - b2**t)) + eps), m, v


def ftrl(t, w, g, n, z, a=0.05, p=0.5, l1=0.0, l2=0.0, s=0.0, beta=0.0):
    after = n + g**2
    z = z + g + 2 * s * w - (after**p - n**p) / a * w
    w = (np.clip(z, -l1, l1) - z) / ((beta + after**p) / a + 2 * l2)
    return w, after, z


def adafactor(t, w, g, r, c, a=0.05, power=-0.8, eps1=1e-5, eps2=0.1, d=0.7, relative=True):
    """In place of r: v, where there is nothing to factor."""
    b = 1 - t**power
    if g.ndim < 2:
        r = v = b * r + (1 - b) * (g**2 + eps1)
    else:
        r = b * r + (1 - b) * np.mean(g**2 + eps1, axis=-1)
        c = b * c + (1 - b) * np.mean(g**2 + eps1, axis=-2)
        v = (r / np.mean(r, axis=-1, keepdims=True))[..., None] * np.expand_dims(c, -2)
    u = g / np.sqrt(v)
    u = u / max(1.0, np.sqrt(np.mean(u**2)) / d)
    rho = min(a, t**-0.5) if relative else a
    return w - rho * max(eps2, np.sqrt(np.mean(w**2))) * u, r, c
