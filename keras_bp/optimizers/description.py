"""What an optimizer will do with each variable of a model, before it is trained."""

import typing

import keras

from keras_bp._keras import is_built, leaf_optimizers, updates
from keras_bp._paths import slots_of
from keras_bp.optimizers.optimizer import Optimizer


class Treatment(typing.NamedTuple):
    """How an optimizer treats one variable.

    Attributes:
        path: the variable's path, in which patterns are searched.
        shape: tuple of ints.
        rule: name of the rule that updates it.
        rate: float, the learning rate of the next update; 0 where it is frozen.
        decay: float, the weight decay, to be multiplied by the rate; 0 for none.
        slots: tuple of the names of what the optimizer keeps for it.
    """

    path: str
    shape: tuple[int, ...]
    rule: str
    rate: float
    decay: float
    slots: tuple[str, ...]


class Description(tuple[Treatment, ...]):
    """What `describe` returns: a tuple with a `Treatment` for each variable; printed, a table."""

    def __str__(self) -> str:
        head = ("variable", "shape", "rule", "rate", "decay", "slots")
        cells = [
            (t.path, str(t.shape), t.rule, f"{t.rate:.3g}", f"{t.decay:.3g}", ", ".join(t.slots))
            for t in self
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *cells)
        )
        return "\n".join(lines)


def describe(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> Description:
    """List what an optimizer will do with each trainable variable of a model.

    The optimizer is built on the model's variables unless it is built already, as `fit` would do.

    Args:
        optimizer: an optimizer of this package, or Keras's `LossScaleOptimizer` around one, or
            `MultiOptimizer` of some.
        model: a built `keras.Model`.

    Returns:
        A tuple, which `print` shows as a table, with a named tuple for each variable, in the
        model's order: `path`, in which patterns are searched, `shape`, the name of the `rule`, the
        `rate` of the next update, 0 where it is frozen, the weight `decay`, 0 for none, and the
        names of the `slots`. Rules that find their rate, warm it up themselves (schedule-free ones)
        or make it relative (Adafactor) begin from that rate.

    Raises:
        TypeError: if an optimizer is not of this package.
        ValueError: if the model is not built, or has no trainable variables; and what the
            optimizer's `build` raises, if a pattern matches nothing for instance.

    Example:
        >>> layers = [keras.Input((3,)), keras.layers.Dense(2, name="hidden")]
        >>> model = keras.Sequential(layers, name="net")
        >>> multipliers = {"bias": 0.1}
        >>> optimizer = keras_bp.optimizers.SGD(0.5, learning_rate_multipliers=multipliers)
        >>> print(keras_bp.optimizers.describe(optimizer, model))
        variable           shape   rule  rate  decay  slots
        net/hidden/kernel  (3, 2)  SGD   0.5   0
        net/hidden/bias    (2,)    SGD   0.05  0
    """
    leaves = leaf_optimizers(optimizer)
    for leaf in leaves:
        if not isinstance(leaf, Optimizer):
            raise TypeError(
                "`optimizer` must be one of keras_bp.optimizers. "
                f"Received: optimizer={leaf!r} (of type {type(leaf).__name__})"
            )
    if not is_built(model) or not model.trainable_variables:
        raise ValueError(
            "`model` must be built and have trainable variables: give it an `Input`, or call it "
            f"once. Received: model={model!r}"
        )
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    slots: dict = {}
    for leaf in leaves:
        for variable, name, _ in slots_of(leaf, model.trainable_variables):
            slots.setdefault(id(variable), []).append(name)
    treatments = []
    for variable in model.trainable_variables:
        for leaf in leaves:
            if updates(leaf, variable):
                rate, decay = leaf._rate_and_decay_of(variable)
                kept = tuple(slots.get(id(variable), ()))
                rule, shape = leaf._rule_name(variable), tuple(variable.shape)
                treatments.append(
                    Treatment(leaf._path_of(variable), shape, rule, rate, decay, kept)
                )
    return Description(treatments)
