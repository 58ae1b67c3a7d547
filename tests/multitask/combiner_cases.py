"""The combiners that the tests here go through, and ways to call them."""

import inspect

import tensorflow as tf

from keras_bp import multitask

# The rules that are functions of the Gramian; every public one, so that a new one is not missed.
# Those that need losses have variables of their own, and tests of their own.
RULES = {
    name: cls
    for name in multitask.__all__
    if inspect.isclass(cls := getattr(multitask, name))
    and issubclass(cls, multitask.Combiner)
    and not issubclass(cls, multitask.LossWeighting)
    and cls is not multitask.Combiner
}


class Compiled:
    """Calls a combiner inside a `tf.function`, one trace for each number of tasks."""

    def __init__(self, combiner, dtype=tf.float64, jit_compile=False):
        self.combiner, self.dtype, self.jit_compile = combiner, dtype, jit_compile
        self.functions = {}

    def __call__(self, rows):
        tasks = len(rows)
        if tasks not in self.functions:
            signature = [tf.TensorSpec((tasks, None), self.dtype)]
            self.functions[tasks] = tf.function(
                self.combiner.combine, input_signature=signature, jit_compile=self.jit_compile
            )
        return self.functions[tasks](tf.cast(rows, self.dtype)).numpy()
