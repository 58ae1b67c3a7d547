"""Trainings with a curvature and a noise that are known, for the tests of the probe."""

import numpy as np

from tools.discovery.tasks import Task


class Bowl(Task):
    """The loss c/2 |w|^2 and gradients with noise of a known variance.

    Args:
        curvature: number, c.
        noise: number, the deviation of each entry of a batch's gradient.
        size: integer, the number of weights.
        weights: the first ones; ones by default.
    """

    def __init__(self, curvature, noise=0.0, size=64, weights=None, optimizer="sgd", steps=400):
        weights = np.ones(size, "float32") if weights is None else weights
        super().__init__("bowl", optimizer, steps, weights)
        self._curvature, self._noise = np.float32(curvature), np.float32(noise)

    def gradients(self, weights, generator):
        noise = self._noise * generator.standard_normal(len(self.weights), dtype="float32")
        return self.losses(weights), self._curvature * weights + noise

    def losses(self, weights):
        return 0.5 * self._curvature * np.sum(weights**2, axis=1)


class Scaled(Task):
    """Another task with its loss times `loss`, and its weights times `weights`.

    Args:
        task: a `Task`.
        loss: number, a power of 2, so that nothing is rounded.
        weights: number, likewise.
    """

    def __init__(self, task, loss=1.0, weights=1.0):
        super().__init__(
            task.family, task.optimizer, task.total_steps, task.weights * np.float32(weights)
        )
        self._task = task
        self._loss, self._scale = np.float32(loss), np.float32(weights)

    def gradients(self, weights, generator):
        losses, gradients = self._task.gradients(weights / self._scale, generator)
        return self._loss * losses, self._loss / self._scale * gradients

    def losses(self, weights):
        return self._loss * self._task.losses(weights / self._scale)
