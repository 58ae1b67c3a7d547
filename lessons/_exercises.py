"""Checks the answers to the lessons' exercises: it says what is wrong, not what is right."""

import copy

import numpy as np


def check(function, *arguments, expected, batch=None, rtol=1e-5):
    """Call a function that answers an exercise, and print whether its result is right.

    Args:
        function: the answer; it returns `None` or `...` as long as it is not written.
        *arguments: what it is called with, each a copy.
        expected: the right result: a number, an array, or a tuple or dictionary of them. Compute it
            in another way than the exercise asks for, by finite differences or autodiff, so that it
            does not show the answer.
        batch: number of examples, to recognize a mean where a sum was asked for and the reverse.
        rtol: relative difference that is taken for rounding.
    """
    try:
        answer = function(*copy.deepcopy(arguments))
    except Exception as error:  # of whatever a learner wrote
        found = f"it raises {type(error).__name__}: {error}"
    else:
        found = fault(answer, expected, batch, rtol)
    print(f"{function.__name__}: {found or 'right'}")


def fault(answer, expected, batch=None, rtol=1e-5):
    """Return what is wrong with an answer, `None` if nothing is. Arguments as for `check`."""
    if answer is None or answer is ...:
        return "not answered yet: the function returns nothing"
    if isinstance(expected, dict):
        if not isinstance(answer, dict) or answer.keys() != expected.keys():
            return f"return a dictionary with the keys {', '.join(expected)}"
        parts = [(f"{key}: ", answer[key], value) for key, value in expected.items()]
    elif isinstance(expected, tuple):
        if not isinstance(answer, tuple | list) or len(answer) != len(expected):
            return f"return {len(expected)} results"
        parts = [(f"result {n + 1}: ", answer[n], value) for n, value in enumerate(expected)]
    else:
        return _fault_of_array(answer, expected, batch, rtol)
    found = ((name, fault(part, value, batch, rtol)) for name, part, value in parts)
    return next((f"{name}{what}" for name, what in found if what), None)


def _fault_of_array(answer, expected, batch, rtol):
    try:
        answer = np.asarray(answer, float)
    except (TypeError, ValueError):
        return f"return numbers, not {type(answer).__name__}"
    expected = np.asarray(expected, float)
    if answer.shape != expected.shape:
        return f"the shape is {answer.shape}, not {expected.shape}{_hint(answer, expected)}"
    if not np.all(np.isfinite(answer)):
        return f"{np.sum(~np.isfinite(answer))} of {answer.size} entries are NaN or infinite"
    scale = np.abs(expected).max(initial=0.0)
    right = np.isclose(answer, expected, rtol=rtol, atol=rtol * scale)
    if right.all():
        return None
    norm = np.vdot(expected, expected)
    factor = np.vdot(expected, answer) / norm if norm else 0.0
    if np.allclose(answer, factor * expected, rtol=rtol, atol=rtol * abs(factor) * scale):
        if what := _fault_of_factor(factor, batch, answer.size, rtol):
            return what
    first = tuple(int(i) for i in np.argwhere(~right)[0])
    if answer.size == 1:
        return "the value is wrong"
    square = answer.ndim == 2 and answer.shape[0] == answer.shape[1]
    if square and np.allclose(answer.T, expected, rtol=rtol, atol=rtol * scale):
        return "the matrix is the wrong way round: transposed?"
    return f"{np.sum(~right)} of {answer.size} entries are wrong, the first at {list(first)}"


def _hint(answer, expected):
    """Return what may have gone wrong where an answer has another shape."""
    if expected.ndim == 0:
        return ": return one number"
    if answer.shape == expected.shape[::-1]:
        return ": transposed?"
    if answer.squeeze().shape == expected.squeeze().shape:
        how = "many" if answer.ndim > expected.ndim else "few (keepdims)"
        return f": is an axis of length 1 too {how}?"
    if answer.ndim > expected.ndim:
        return ": is a sum or mean over the examples missing?"
    if answer.ndim < expected.ndim and 1 in expected.shape:
        return ": is an axis summed that must stay (keepdims)?"
    return ""


def _fault_of_factor(factor, batch, entries, rtol):
    if factor == 0:
        return None
    sign = "the sign is wrong" if factor < 0 else ""
    size = abs(factor)
    if np.isclose(size, 1.0, rtol=rtol):
        return sign
    if batch and np.isclose(size, batch, rtol=rtol):
        what = f"m = {batch} times too large: is the mean over the examples missing?"
    elif batch and np.isclose(size * batch, 1.0, rtol=rtol):
        what = f"m = {batch} times too small: is it divided by m twice?"
    elif entries > 1:  # of one number it would give the answer away
        digits = 4 if abs(size - 1.0) > 1e-3 else 7  # not "1 times"
        what = f"every entry is {size:.{digits}g} times what it should be"
    else:
        return None
    return f"{sign}, and {what}" if sign else what
