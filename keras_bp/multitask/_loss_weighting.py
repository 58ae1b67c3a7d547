"""What the rules that learn a weight for each task's loss have in common."""

import keras
import tensorflow as tf

from keras_bp.multitask.combiner import Combiner


class LossWeighting(Combiner):
    """A combiner with variables of its own, one entry a task, which it moves at each step.

    A subclass overrides `_new_variables(tasks)`, `_weights_of_step()`, which returns this step's
    weights, and `_move(gramian, present, losses)`, which makes the next step's.
    """

    needs_losses = True

    def __init__(self, **arguments):
        super().__init__(**arguments)

    def build(self, tasks):
        """Make the rule's variables for a number of tasks, if they are not there.

        The first step does it, where it was not done; a `MultiTaskModel` does when it is made.
        Under `tf.distribute`, a loop of one's own must, in the strategy's scope.
        """
        if not self.variables:
            with tf.init_scope():
                self.variables = self._new_variables(tasks)
        if self.variables[0].shape != (tasks,):
            raise ValueError(
                f"{type(self).__name__} has been used with {self.variables[0].shape[0]} tasks, and "
                f"must be given as many. Received: {tasks} tasks"
            )

    def _weights(self, gramian, present, losses):
        self.build(gramian.shape[0])
        weights = self._weights_of_step()
        self._move(gramian, present, losses)
        return weights

    def _new_variables(self, tasks):
        raise NotImplementedError

    def _weights_of_step(self):
        raise NotImplementedError

    def _move(self, gramian, present, losses):
        raise NotImplementedError


def task_variable(tasks, value, name):
    """Return a variable of shape (tasks,), float32, in which all replicas hold the same."""
    return keras.Variable(
        [value] * tasks,
        dtype="float32",
        trainable=False,
        aggregation="only_first_replica",
        name=name,
    )
