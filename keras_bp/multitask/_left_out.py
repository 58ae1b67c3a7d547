"""How often tasks were left out of a step."""

import keras


class LeftOut(keras.metrics.Metric):
    """Counts, for each task, the steps that it was left out of since the last reset.

    Args:
        tasks: integer, the number of tasks.
        name: string.
    """

    def __init__(self, tasks, name):
        super().__init__(name=name)
        self.steps = self.add_variable((tasks,), "zeros", name="steps")

    def update_state(self, present):
        """Count the tasks that are False in a boolean tensor of shape (tasks,)."""
        self.steps.assign_add(1.0 - keras.ops.cast(present, self.steps.dtype))

    def result(self):
        """Return the sum over the tasks."""
        return keras.ops.sum(self.steps)
