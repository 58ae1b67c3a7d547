"""GPT-3's learning rate, and the batch size that grows beside it."""

import math

import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._keras import serializable
from keras_bp._types import Array
from keras_bp.schedules.schedule import Schedule, Steps, between, half_cosine


@serializable
class GPT3(Schedule):
    """Follows GPT-3's recipe, in which the rate depends on the tokens seen, not on the steps.

    The batches grow with the tokens n seen before them, so that a late update counts as many early
    ones. The schedule derives the tokens from the step, if the batches have the sizes that
    `batch_size` returns:

        B(n)      = first + (last - first) min(n / ramp, 1)
        n_(k+1)   = n_k + B(n_k),    n_0 = 0
        n_k       = first ((1 + r)^k - 1) / r while n_k < ramp,    r = (last - first) / ramp
        rate(k)   = peak n_k / warmup                                      for n_k < warmup
        rate(k)   = m + (peak - m)/2 (1 + cos(pi min((n_k - warmup) / (decay - warmup), 1)))

    with m the last rate. After the ramp, n grows by `last` in each step. The recipe's other
    parts: Adam(beta_1=0.9, beta_2=0.95, epsilon=1e-8), the gradients' global norm clipped to 1,
    and a weight decay of 0.1.

    Args:
        peak_learning_rate: number of 0 or more. Defaults to 6e-5, that of the model with 175
            billion parameters.
        warmup_tokens: positive number under `decay_tokens`: the tokens of the linear rise.
            Defaults to 375 million.
        decay_tokens: positive number: when the cosine ends, counted from the start of training.
            Defaults to 260 billion; GPT-3 is then trained on 40 billion more at the last rate.
        minimum_learning_rate: number in [0, peak_learning_rate], m, the last rate. Defaults to
            `None`, a tenth of the peak.
        ramp_tokens: positive number: when the batches are at their full size, 4 to 12 billion by
            the model's size. Defaults to 12 billion.
        first_batch_tokens: integer of 1 or more, the first batch's tokens. Defaults to 32,000.
        last_batch_tokens: integer of `first_batch_tokens` or more, the tokens of a batch after the
            growth. Defaults to 3.2 million.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.GPT3()
        >>> schedule.batch_size([0, 1, 30_000]).numpy()
        array([  32000,   32008, 3200000])
        >>> [f"{tokens:.3e}" for tokens in schedule.tokens([1, 10_000, 90_000])]
        ['3.200e+04', '1.577e+09', '2.442e+11']
        >>> [f"{rate:.2e}" for rate in schedule([0, 10_000, 90_000, 100_000])]
        ['0.00e+00', '6.00e-05', '6.49e-06', '6.00e-06']

    References:
        Brown et al., 2020, "Language models are few-shot learners", section 2.3, table 2.1 and
        appendix B.
    """

    def __init__(
        self,
        peak_learning_rate: float = 6e-5,
        warmup_tokens: float = 375e6,
        decay_tokens: float = 260e9,
        minimum_learning_rate: float | None = None,
        ramp_tokens: float = 12e9,
        first_batch_tokens: int = 32_000,
        last_batch_tokens: int = 3_200_000,
    ) -> None:
        peak = check_number("peak_learning_rate", peak_learning_rate, 0.0)
        decay = check_number("decay_tokens", decay_tokens, 0.0, low_open=True)
        first = check_integer("first_batch_tokens", first_batch_tokens, 1)
        super().__init__(
            peak_learning_rate=peak,
            warmup_tokens=check_number(
                "warmup_tokens", warmup_tokens, 0.0, decay, low_open=True, high_open=True
            ),
            decay_tokens=decay,
            # None stays None, so that a copy with another peak has a tenth of that.
            minimum_learning_rate=None
            if minimum_learning_rate is None
            else check_number("minimum_learning_rate", minimum_learning_rate, 0.0, peak),
            ramp_tokens=check_number("ramp_tokens", ramp_tokens, 0.0, low_open=True),
            first_batch_tokens=first,
            last_batch_tokens=check_integer("last_batch_tokens", last_batch_tokens, low=first),
        )

    def tokens(self, step: Array) -> tf.Tensor:
        """Return how many tokens were seen before update `step`.

        Args:
            step: as the schedule's own.

        Returns:
            An int64 tensor in the shape of `step`: the closed form, rounded.
        """
        return _whole(self._tokens(Steps.of(step)))

    def batch_size(self, step: Array) -> tf.Tensor:
        """Return how many tokens the batch of update `step` has.

        Args:
            step: as the schedule's own; of a fraction, the whole part counts.

        Returns:
            An int64 tensor in the shape of `step`. The sizes of the batches before a step add up
            to its `tokens` exactly.
        """
        before = Steps(Steps.of(step).whole)
        after = Steps(before.whole + 1)
        return _whole(self._tokens(after)) - _whole(self._tokens(before))

    def _tokens(self, steps):
        """Return the tokens seen in float64, which is exact to a token for 10^15 of them."""
        first, last, step = self.first_batch_tokens, self.last_batch_tokens, steps.number()
        if first == last:
            return step * last
        growth = (last - first) / self.ramp_tokens
        log_factor = math.log1p(growth)
        # The first step that starts after the ramp. If rounding makes it one too many, that step's
        # batch has the full size by the recurrence as well.
        ramp_steps = math.ceil(math.log(last / first) / log_factor)
        on_ramp = tf.math.expm1(tf.minimum(step, ramp_steps) * log_factor) / growth
        return first * on_ramp + last * tf.maximum(step - ramp_steps, 0.0)

    def _rate(self, steps):
        peak, warmup = self.peak_learning_rate, self.warmup_tokens
        tokens = self._tokens(steps)
        rising = between(0.0, peak, tf.minimum(tokens / warmup, 1.0))
        left = (self.decay_tokens - tokens) / (self.decay_tokens - warmup)
        floor = self.minimum_learning_rate
        floor = 0.1 * peak if floor is None else floor
        falling = half_cosine(floor, peak, tf.clip_by_value(left, 0.0, 1.0))
        return tf.where(tokens < warmup, rising, falling)


def _whole(tokens):
    return tf.cast(tf.round(tokens), tf.int64)
