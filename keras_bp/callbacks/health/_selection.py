"""Rules by name."""

from keras_bp.callbacks.health._rule import Rule
from keras_bp.callbacks.health.dead_units import DeadUnits
from keras_bp.callbacks.health.exploding import Exploding
from keras_bp.callbacks.health.loss_not_falling import LossNotFalling
from keras_bp.callbacks.health.not_finite import NotFinite
from keras_bp.callbacks.health.overfitting import Overfitting
from keras_bp.callbacks.health.poor_initialization import PoorInitialization
from keras_bp.callbacks.health.saturation import Saturation
from keras_bp.callbacks.health.unchanged_weights import UnchangedWeights
from keras_bp.callbacks.health.update_ratio import UpdateRatio
from keras_bp.callbacks.health.vanishing import Vanishing

_CLASSES = (
    NotFinite,
    Exploding,
    Vanishing,
    DeadUnits,
    Saturation,
    UpdateRatio,
    UnchangedWeights,
    PoorInitialization,
    LossNotFalling,
    Overfitting,
)
_RULES = {rule.name: rule for rule in _CLASSES}


def checked_rules(rules):
    """Return a list of rules from a list of rules and names, or all for None."""
    expected = f"`rules` must be a list of rules or of their names, {', '.join(_RULES)}, or None."
    if rules is None:
        return [rule() for rule in _RULES.values()]
    if not isinstance(rules, list | tuple):
        raise TypeError(f"{expected} Received: rules={rules!r}")
    checked = []
    for rule in rules:
        if isinstance(rule, str) and rule not in _RULES:
            raise ValueError(f"{expected} Received: {rule!r}")
        rule = _RULES[rule]() if isinstance(rule, str) else rule
        if not isinstance(rule, Rule):
            raise TypeError(f"{expected} Received: {rule!r}")
        checked.append(rule)
    if len({rule.name for rule in checked}) < max(1, len(checked)):
        raise ValueError(f"{expected} It must hold each rule once. Received: rules={rules!r}")
    return checked
