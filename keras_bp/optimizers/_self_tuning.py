"""The base of the rules that find their rate themselves."""

import tensorflow as tf

from keras_bp.optimizers._replicas import local
from keras_bp.optimizers.optimizer import Optimizer


class SelfTuning(Optimizer):
    """What rules without a hand-made rate share: sums over all variables, before any moves.

    In each update `_measure` returns a few numbers of each variable, and their sums over all of
    them go to `_tune`, which returns the rate. They are taken of the gradients that the rule gets,
    summed over replicas and micro-steps, unscaled and clipped, so that every replica finds the same
    rate; and they are a part of the update, so that a step that is skipped leaves them alone. A
    variable without gradient counts as one with zeros, and stays where it is.

    Sums and scalars are in float64: a rate grows over many orders of size.

    A rule that keeps where training began names "initial" as its first slot. It is filled by the
    first update, not by `build`, since weights may be loaded in between.
    """

    # What a rule overrides.

    def _begin(self, targets):
        """Give the scalars the values that they begin with, before the first update.

        Args:
            targets: list of `tf.Variable`, all that the rule updates.
        """

    def _scales(self, learning_rate, step, dtype):
        """Return the scalars that `_measure` needs, as `_coefficients` does the rule's."""
        return ()

    def _measure(self, variable, gradient, slots, scales, decay):
        """Return a variable's share in the sums, always the same number of scalar tensors.

        Args:
            variable: `tf.Variable`, not moved yet.
            gradient: as the rule gets it; zeros where there is none.
            slots: list of `tf.Variable`.
            scales: what `_scales` returned, cast to the variable's dtype.
            decay: scalar tensor, `weight_decay`, or `None` where the variable does not decay.
        """
        raise NotImplementedError

    def _tune(self, sums, learning_rate, step):
        """Return this update's rate.

        Args:
            sums: list of scalar float64 tensors.
            learning_rate: scalar float64 tensor.
            step: scalar float64 tensor, the number of this update, from 1.
        """
        raise NotImplementedError

    @property
    def adapted_rate(self):
        """The rate of the last update, which the rule has found: a variable, 0 before the first."""
        if not self.built:
            raise AttributeError("`adapted_rate` is there once the optimizer is built.")
        return self._adapted_rate

    # What it makes of it.

    def build(self, variables):
        """Create the slots and the scalars that all variables share."""
        if self.built:
            return
        super().build(variables)
        self._started = self.add_variable((), dtype="bool", name="started")
        self._adapted_rate = self._add_scalar("adapted_rate")

    def _add_scalar(self, name):
        return self.add_variable((), dtype="float64", name=name)

    def _survey(self, gradients, variables, reached, learning_rate, step):
        gradients = [self._complete(g, v) for g, v in zip(gradients, variables, strict=True)]
        given = {
            self._get_variable_index(variable): pair
            for variable, *pair in zip(
                variables, gradients, reached or [None] * len(variables), strict=True
            )
        }
        # Variables that are overwritten have no slots.
        tuned = [(i, v) for i, v in enumerate(self._trainable_variables) if self._slots_of(i)]
        targets = {index: self._up_to_date_target(variable) for index, variable in tuned}
        slots = {index: [local(slot) for slot in self._slots_of(index)] for index in targets}
        self._start_from(targets, slots)
        scales = {
            dtype: [tf.cast(s, dtype) for s in self._scales(learning_rate, step, dtype)]
            for dtype in {target.dtype for target in targets.values()}
        }
        shares = []
        for index, target in targets.items():
            gradient, is_reached = given.get(index, (None, None))
            decay = None
            if gradient is None:
                gradient = tf.zeros_like(target)
            elif self.weight_decay and self._decays[index]:
                decay = tf.constant(self.weight_decay, target.dtype)
                if is_reached is not None:
                    decay *= tf.cast(is_reached, target.dtype)
            shares.append(
                self._measure(target, gradient, slots[index], scales[target.dtype], decay)
            )
        sums = [
            tf.add_n([tf.cast(number, tf.float64) for number in column])
            for column in zip(*shares, strict=True)
        ]
        local(self._adapted_rate).assign(self._tune(sums, learning_rate, step))
        return gradients

    def _start_from(self, targets, slots):
        """In the first update, note where the variables are."""
        started = local(self._started)

        def begin():
            if self.slot_names[0] == "initial":
                for index, target in targets.items():
                    slots[index][0].assign(target)
            self._begin(list(targets.values()))
            started.assign(True)

        tf.cond(started, lambda: None, begin)

    def _decay(self, variable, gradient, decay):
        # By the rate that the rule finds, in the rule.
        return decay
