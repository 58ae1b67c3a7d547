"""The mean of the gradients, freed of conflict in each variable by itself."""

from keras_bp._keras import serializable
from keras_bp.multitask.upgrad import UPGrad


@serializable
class BlockwiseUPGrad(UPGrad):
    """Projects the tasks' gradients of each shared variable onto their dual cone there.

    With the blocks g_i^k of the gradients, one for each shared variable k, and M^k their Gramian,

        d^k = UPGrad of the g_i^k,    so that g_j^k . d^k >= 0 for all j and k

    The rules that look at whole gradients let one layer's conflict pass where another layer's
    agreement makes up for it, and where there is a conflict in sum, they bend the gradient in all
    layers, those that agree among them. Here no conflict is left in any variable, and so none in
    sum; a variable in which the tasks agree gets their mean, that of the tasks that it has a part
    in. Which layers conflict is what `keras_bp.callbacks.GradientConflict` tells.

    Called with a Jacobian, which is one block, it is `UPGrad`.

    Example:
        >>> combine = keras_bp.multitask.BlockwiseUPGrad()
        >>> one = [tf.constant([1.0, 0.0]), tf.constant([4.0])]
        >>> other = [tf.constant([-1.0, 1.0]), tf.constant([2.0])]
        >>> [g.numpy().tolist() for g in combine.combine_tasks([one, other]).gradients]
        [[0.25, 0.75], [3.0]]

    References:
        The blocks are this package's own. UPGrad: Quinton and Rey, 2024, "Jacobian descent for
        multi-objective optimization", equations 3 and 6.
    """

    blockwise = True
