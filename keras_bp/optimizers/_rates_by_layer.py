"""Rates and decays that differ from variable to variable: by patterns of paths, and by depth."""

import re
import typing
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_bp._arguments import check_flag, check_number
from keras_bp._paths import path_of
from keras_bp._types import LearningRate
from keras_bp.optimizers._learning_rate import SettableLearningRate

PRESETS = {
    # The last word of the name of Keras's biases (bias, recurrent_bias, ...) and of the weights
    # of its normalization layers.
    "bias_and_normalization": r"(^|[/_])(bias|gamma|beta|scale)$"
}


class Named(typing.NamedTuple):
    """Stands for a variable where only its path and shape count."""

    name: str
    shape: tuple[int, ...]


LayerOrder = Sequence[str] | Callable[[str], int] | None
"""The layers from the first to the last: patterns, or a function of a path; `None` for unknown."""


def check_patterns(argument, patterns):
    """Return the patterns as a list of strings, or raise an error that names the argument."""
    patterns = [] if patterns is None else patterns
    patterns = list(patterns) if isinstance(patterns, list | tuple | set) else [patterns]
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            raise TypeError(
                f"`{argument}` must be a preset, a regular expression or a list of them. "
                f"Received: {argument}={patterns!r}"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`{argument}` must hold valid regular expressions. Received: {pattern!r} ({error})"
            ) from error
    return patterns


def check_multipliers(argument, multipliers):
    """Return a dictionary pattern -> factor of 0 or more, or raise an error."""
    if multipliers is None:
        return None
    if not isinstance(multipliers, dict):
        raise TypeError(
            f"`{argument}` must be a dictionary of patterns and factors, or None. "
            f"Received: {argument}={multipliers!r}"
        )
    check_patterns(argument, list(multipliers))
    return {p: check_number(f"{argument}[{p!r}]", f, 0.0) for p, f in multipliers.items()}


def check_layer_decay(argument, decay):
    """Return a number in (0, 1], or `None`."""
    return None if decay is None else check_number(argument, decay, 0.0, 1.0, low_open=True)


def check_layer_order(argument, order):
    """Return the patterns as a list, or a function, from its saved form too; or `None`."""
    if isinstance(order, dict):
        order = keras.saving.deserialize_keras_object(order)
    if order is None or callable(order):
        return order
    if not isinstance(order, list | tuple):
        raise TypeError(
            f"`{argument}` must be a list of patterns from the first layer to the last, a function "
            f"of a path, or None. Received: {argument}={order!r}"
        )
    return check_patterns(argument, order)


def exactly(variable):
    """Return the pattern that finds this variable, also in a model loaded from a file.

    The layers of a `Sequential` model are built in it, "model/dense/kernel", but when it is loaded
    before it, "dense/kernel".
    """
    words = ["", *str(path_of(variable)).split("/")]
    layer, name = words[-2:]
    models = [f"({re.escape(model)}/)?" for model in words[:-2] if model]
    return "^" + "".join(models) + re.escape(f"{layer}/{name}" if layer else name) + "$"


def found(argument, pattern, variables):
    """Find a pattern in the variables' paths.

    Returns:
        A list with the length of what it matches in each path, or `None` where it is not found.

    Raises:
        ValueError: if a pattern other than a preset is found in no path.
    """
    paths = [path_of(variable) for variable in variables]
    matches = [re.search(PRESETS.get(pattern, pattern), path) for path in paths]
    # A model without biases may name the preset; any other pattern that finds nothing is
    # misspelled.
    if not any(matches) and pattern not in PRESETS:
        raise ValueError(
            f"`{argument}` must match at least one variable with each pattern. "
            f"Received: {pattern!r}, which is found in none of {paths}"
        )
    return [match and len(match.group()) for match in matches]


def decayed(variables, patterns, exact):
    """Tell for each variable whether it decays.

    Args:
        variables: list of variables.
        patterns: list of presets and regular expressions.
        exact: the patterns that stand for one variable each.

    Raises:
        ValueError: if a pattern other than a preset matches no variable, or one that stands for one
            variable matches several.
    """
    keep = [True] * len(variables)
    for pattern in patterns:
        matches = [match is not None for match in found("exclude_from_decay", pattern, variables)]
        if pattern in exact and sum(matches) > 1:
            raise ValueError(
                "`var_list` must hold variables with distinct paths, as a file keeps no more. "
                f"Received: one whose path {pattern!r} matches several of "
                f"{[path_of(variable) for variable in variables]}"
            )
        keep = [before and not match for before, match in zip(keep, matches, strict=True)]
    return keep


def multipliers_of(argument, multipliers, variables):
    """Return each variable's factor: that of the longest match in its path, 1 without any.

    Of two matches of one length the later pattern counts.
    """
    factors, longest = [1.0] * len(variables), [-1] * len(variables)
    for pattern, factor in (multipliers or {}).items():
        for i, length in enumerate(found(argument, pattern, variables)):
            if length is not None and length >= longest[i]:
                factors[i], longest[i] = factor, length
    return factors


def depth_factors(decay, order, variables):
    """Return each variable's factor, decay^(levels above it): 1 for the last layer.

    Args:
        decay: number in (0, 1], or `None` for a factor of 1.
        order: see `LayerOrder`.
        variables: list of variables, in the order of the layers.
    """
    if decay is None:
        return [1.0] * len(variables)
    levels = _levels(order, variables)
    top = max(levels)
    return [decay ** (top - level) for level in levels]


def _levels(order, variables):
    if order is None:
        return _levels_in_turn(variables)
    if callable(order):
        levels = [order(path_of(variable)) for variable in variables]
        if not all(isinstance(level, int) for level in levels):
            raise TypeError(
                "`layer_order` must return an integer for each path, the layer's place from the "
                f"first. Received: {levels!r}"
            )
        return levels
    # What no pattern names is the head.
    levels, longest = [len(order)] * len(variables), [-1] * len(variables)
    for level, pattern in enumerate(order):
        for i, length in enumerate(found("layer_order", pattern, variables)):
            if length is not None and length > longest[i]:
                levels[i], longest[i] = level, length
    return levels


def _levels_in_turn(variables):
    """Number the layers as they come: those that hold a matrix, each with what follows it.

    The layers of a block, `block_3/attention/query`, are one level: its first word, without that of
    a model that holds every layer.
    """
    words = [path_of(variable).split("/")[:-1] for variable in variables]
    # The model's own name, which the layers have that it built: the last one's first word. A weight
    # of the model itself has nothing else.
    if len({tuple(path[:1]) for path in words}) > 1 and len(words[-1]) > 1:
        model = words[-1][0]
        words = [path[path[:1] == [model] :] for path in words]
    while any(len(path) > 1 for path in words) and len({tuple(path[:1]) for path in words}) == 1:
        words = [path[1:] for path in words]
    places: dict = {}
    level, levels = -1, []
    for path in words:
        block = path[0] if path else ""
        if block not in places:
            # A normalization belongs to the layer before it.
            of_layer = [v for p, v in zip(words, variables, strict=True) if p[:1] == path[:1]]
            level += any(len(v.shape) > 1 for v in of_layer) or level < 0
            places[block] = level
        levels.append(places[block])
    return levels


def in_last_layer(variables: Sequence[typing.Any]) -> list[bool]:
    """Tell for each variable whether it belongs to the output layer: the last with a matrix."""
    # A variable outside of all layers is one of its own.
    layers = [path_of(variable).rpartition("/")[0] or i for i, variable in enumerate(variables)]
    with_matrix = [layer for layer, v in zip(layers, variables, strict=True) if len(v.shape) > 1]
    return [bool(with_matrix) and layer == with_matrix[-1] for layer in layers]


def is_projection(variable: typing.Any) -> bool:
    """Tell whether a variable is an attention's kernel of shape (dim, heads, head_dim)."""
    layer = ["", *path_of(variable).split("/")][-2]
    return len(variable.shape) == 3 and layer in ("query", "key", "value", "gate")


def check_bound(argument, bound):
    """Return a number above 0, or `None`."""
    return None if bound is None else check_number(argument, bound, 0.0, low_open=True)


# What can be set between steps, and how it is checked: traced steps hold it as it was.
_SETTABLE: dict[str, Callable[[str, typing.Any], typing.Any]] = {
    "exclude_from_decay": check_patterns,
    "learning_rate_multipliers": check_multipliers,
    "weight_decay_multipliers": check_multipliers,
    "layer_decay": check_layer_decay,
    "weight_decay": lambda name, decay: None if decay is None else check_number(name, decay, 0.0),
    "cautious": check_flag,
    **dict.fromkeys(("clipnorm", "clipvalue", "global_clipnorm"), check_bound),
    **dict.fromkeys(("adaptive_clip", "update_clip"), check_bound),
    **dict.fromkeys(("clip_above_zscore", "skip_above_zscore"), check_bound),
}


class RatesByLayer(SettableLearningRate):
    """The part of the base that gives each variable its factors on the rate and on the decay.

    Its arguments are explained in `Optimizer`.
    """

    argument_names: tuple[str, ...] = (
        "exclude_from_decay",
        "learning_rate_multipliers",
        "weight_decay_multipliers",
        "layer_decay",
        "layer_order",
    )

    def __init__(
        self,
        learning_rate: LearningRate,
        *,
        exclude_from_decay: str | list[str] | None = None,
        learning_rate_multipliers: dict[str, float] | None = None,
        weight_decay_multipliers: dict[str, float] | None = None,
        layer_decay: float | None = None,
        layer_order: LayerOrder = None,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        if layer_order is not None and layer_decay is None:
            raise ValueError(
                "`layer_order` must come with `layer_decay`, which it is the order of. "
                f"Received: layer_order={layer_order!r}, layer_decay=None"
            )
        # What can be set later is checked as it is set.
        self.exclude_from_decay: typing.Any = exclude_from_decay
        self._exact_exclusions: list[str] = []
        self._variable_paths: tuple[str, ...] | None = None
        self.layer_order = check_layer_order("layer_order", layer_order)
        self.layer_decay = layer_decay
        self.learning_rate_multipliers = learning_rate_multipliers
        self.weight_decay_multipliers = weight_decay_multipliers

    def __setattr__(self, name: str, value: typing.Any) -> None:
        if name not in _SETTABLE:
            super().__setattr__(name, value)
            return
        before, value = getattr(self, name, None), _SETTABLE[name](name, value)
        super().__setattr__(name, value)
        if getattr(self, "built", False):
            try:
                self._check_set(name, value)
                self._find_factors(self._trainable_variables)
            except (TypeError, ValueError):
                super().__setattr__(name, before)
                raise
            self._drop_traces()

    def _check_set(self, name, value):
        """Raise if an option cannot be set to this once the optimizer is built."""

    def exclude_from_weight_decay(
        self, var_list: list | None = None, var_names: list[str] | None = None
    ) -> None:
        """Set `exclude_from_decay`, as Keras's method does: variables, or patterns of paths."""
        if self.built:
            raise ValueError("Call `exclude_from_weight_decay` before the optimizer is built.")
        self._exact_exclusions = [exactly(variable) for variable in var_list or []]
        self.exclude_from_decay = self._exact_exclusions + list(var_names or [])

    def _named(self, variables):
        """Return the variables' stand-ins, with the paths that they had when they were first built.

        Keras gives the variables of a nested model other paths in a model that is loaded.
        """
        named = [Named(path_of(v), tuple(v.shape)) for v in variables]
        before = self._variable_paths or ()
        ends = [
            [path.split("/")[-1] for path in paths] for paths in (before, [n[0] for n in named])
        ]
        if ends[0] != ends[1]:
            return named
        return [n._replace(name=path) for n, path in zip(named, before, strict=True)]

    def _find_factors(self, variables):
        """Find each variable's factors on the rate and on the decay."""
        variables = self._named(variables)
        decays = decayed(variables, self.exclude_from_decay, self._exact_exclusions)
        rates, shares = (
            multipliers_of(name, getattr(self, name), variables)
            for name in ("learning_rate_multipliers", "weight_decay_multipliers")
        )
        depths = depth_factors(self.layer_decay, self.layer_order, variables)
        self._variable_paths = tuple(variable.name for variable in variables)
        self._in_last_layer = tuple(in_last_layer(variables))
        self._rate_factors = tuple(r * d for r, d in zip(rates, depths, strict=True))
        self._decay_factors = tuple(s * d for s, d in zip(shares, decays, strict=True))

    def is_frozen(self, variable: typing.Any) -> bool:
        """Tell whether a variable of a built optimizer has a factor of 0 on its rate."""
        return self._rate_factors[self._get_variable_index(variable)] == 0

    def _weight_decay_of(self, variable):
        """Return a variable's weight decay before its factor: a number, or `None`."""
        return self.weight_decay

    def _decay_of(self, variable):
        """Return a variable's weight decay, or `None` where it has none."""
        factor = self._decay_factors[self._get_variable_index(variable)]
        return (self._weight_decay_of(variable) or 0) * factor or None

    def _path_of(self, variable):
        """Return the path in which patterns are searched."""
        return self._variable_paths[self._get_variable_index(variable)]

    def _searches_paths(self):
        """Tell whether the variables' paths decide how they are treated."""
        multipliers = self.learning_rate_multipliers or self.weight_decay_multipliers
        return bool(multipliers or self.exclude_from_decay or self.layer_decay)

    @property
    def rate_factors(self) -> tuple[float, ...]:
        """The different factors on the rate, from the smallest; none before `build`."""
        return tuple(sorted(set(self._rate_factors))) if self.built else ()

    def _rate_and_decay_of(self, variable):
        """Return a variable's rate in the next update, and its decay, as floats, for `describe`."""
        factor = self._rate_factors[self._get_variable_index(variable)]
        return float(self.learning_rate) * factor, float(self._decay_of(variable) or 0)

    def _scalars_by_factor(self, rate, step, dtypes):
        """Return, for each dtype and factor, the rate and the rule's scalars.

        Computed for all factors at once, as vectors: as many operations as for one.
        """
        factors = [factor for factor in self.rate_factors if factor > 0]
        rates = rate if factors in ([], [1.0]) else rate * tf.constant(factors, tf.float64)

        def of_each(scalars):
            return tf.unstack(scalars) if scalars.shape.rank else [scalars] * len(factors)

        scalars_of = {}
        for dtype in dtypes:
            scalars = map(tf.convert_to_tensor, self._coefficients(rates, step, dtype))
            columns = [of_each(tf.cast(s, dtype)) for s in scalars]
            for i, factor, own in zip(range(len(factors)), factors, of_each(rates), strict=True):
                scalars_of[dtype, factor] = own, [column[i] for column in columns]
        return scalars_of

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> typing.Any:
        """Make an optimizer from what `get_config` returned."""
        config = dict(config)
        paths = config.pop("variable_paths", None)
        optimizer = super().from_config(config, custom_objects)
        optimizer._variable_paths = paths and tuple(paths)
        return optimizer

    def get_config(self) -> dict[str, typing.Any]:
        """Return the constructor's arguments, for `from_config`."""
        # Plain ones: Keras tracks the lists of an optimizer, and its own cannot be pickled.
        rates, decays, order = (
            self.learning_rate_multipliers,
            self.weight_decay_multipliers,
            self.layer_order,
        )
        if order is not None:
            order = keras.saving.serialize_keras_object(order) if callable(order) else list(order)
        paths = (self._variable_paths or ()) if self._searches_paths() else ()
        return {
            **super().get_config(),
            **({"variable_paths": list(paths)} if paths else {}),
            "exclude_from_decay": list(self.exclude_from_decay) or None,
            "learning_rate_multipliers": rates and dict(rates),
            "weight_decay_multipliers": decays and dict(decays),
            "layer_order": order,
        }
