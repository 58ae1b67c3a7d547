"""The variables of the replica at hand."""

import keras
import tensorflow as tf


def local(variable):
    """Return the `tf.Variable` of the replica at hand, of a Keras or TensorFlow variable.

    Under a distribution strategy a variable has a copy in every replica. All copies get the same
    update, computed from the same summed gradient, and so stay equal without a word between the
    replicas. That is why an update may stand inside a `tf.cond`: Keras's, which goes through
    `merge_call`, may not (RuntimeError with accumulation under MirroredStrategy).
    """
    if isinstance(variable, keras.Variable):
        variable = variable.value
    if not isinstance(variable, tf.distribute.DistributedValues):
        return variable
    context = tf.distribute.get_replica_context()
    copies = context.strategy.experimental_local_results(variable)
    # The number counts over all workers, the copies are this worker's.
    number = tf.get_static_value(context.replica_id_in_sync_group)
    return copies[int(number) % len(copies)]
