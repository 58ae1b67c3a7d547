"""GPT-3's learning rate and batch size, which grow and fall with the number of tokens seen.

Both functions here return a function of the tokens seen so far, any finite number >= 0; a number
of tokens or a setting out of range raises a TypeError or a ValueError.
"""

from keras_bp.reference._checks import check_number
from keras_bp.reference.schedules import warmup_cosine


def gpt3_learning_rate(peak, warmup_tokens=375e6, decay_tokens=260e9, floor_share=0.1):
    """GPT-3's rate as a function of the tokens seen: linear rise, then a cosine to 10 %.

    The cosine ends when `decay_tokens` have been seen in all, the rise included; the rest of
    the training, up to 300 billion tokens there, goes on at the floor.

    Args:
        peak: float >= 0, the highest rate (6e-5 for the model of 175 billion parameters).
        warmup_tokens: float in [0, decay_tokens). Defaults to 375 million.
        decay_tokens: float > 0. Defaults to 260 billion.
        floor_share: float in [0, 1], the last rate's share of the peak. Defaults to 0.1.

    Example:
        >>> from keras_bp.reference import gpt3_learning_rate
        >>> rate = gpt3_learning_rate(6e-5)
        >>> [f"{rate(tokens):.1e}" for tokens in (0, 375e6, 260e9, 300e9)]
        ['0.0e+00', '6.0e-05', '6.0e-06', '6.0e-06']

    References:
        Brown et al., 2020, "Language models are few-shot learners", appendix B.
    """
    peak = check_number("peak", peak, 0.0)
    floor_share = check_number("floor_share", floor_share, 0.0, 1.0)
    return warmup_cosine(peak, warmup_tokens, decay_tokens, floor_share * peak)


def gpt3_batch_size(ramp_tokens=12e9, first=32_000, last=3_200_000):
    """GPT-3's batch size, in tokens, as a function of the tokens seen: a linear growth.

    Args:
        ramp_tokens: float > 0, when the growth ends: 4 to 12 billion, by the model's size.
            Defaults to 12 billion.
        first: float >= 1, the first batch's tokens. Defaults to 32,000.
        last: float >= first, the tokens of a batch after the growth. Defaults to 3.2 million.

    Example:
        >>> from keras_bp.reference import gpt3_batch_size
        >>> batch_size = gpt3_batch_size()
        >>> [batch_size(tokens) for tokens in (0, 6e9, 12e9, 300e9)]
        [32000, 1616000, 3200000, 3200000]

    References:
        Brown et al., 2020, "Language models are few-shot learners", appendix B.
    """
    ramp_tokens = check_number("ramp_tokens", ramp_tokens, 0.0, low_open=True)
    first = check_number("first", first, 1.0)
    last = check_number("last", last, first)

    def batch_size(tokens):
        share = min(check_number("tokens", tokens, 0.0) / ramp_tokens, 1.0)
        return round(first + (last - first) * share)

    return batch_size
