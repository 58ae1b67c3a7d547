"""All variables that the next batch of a training depends on."""

from typing import Any

import keras
import tensorflow as tf

from keras_bp._keras import global_seed_state


class TrainingVariables:
    """The model's weights and seed generators, the optimizer's, the metrics', and Keras's seed.

    All replicas have the same trainable weights and optimizer's variables. Of all others each
    replica's count: moving averages and metrics differ.

    Args:
        model: a built and compiled `keras.Model` whose optimizer is built.

    Attributes:
        named: dictionary name -> variable, without those of the metrics.
        common: set of the names of those that all replicas have in common.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        variables = {
            "model": model.variables,
            "optimizer": model.optimizer.variables,
            "seed": [global_seed_state()],
        }
        self.named: dict[str, Any] = {}
        seen = set()
        for kind, members in variables.items():
            for member in members:
                if id(member) not in seen:
                    seen.add(id(member))
                    self.named[f"{kind}_{len(self.named)}"] = member
        common = {id(v) for v in model.trainable_variables + model.optimizer.variables}
        self.common = {name for name, v in self.named.items() if id(v) in common}

    def parts(self, metrics: bool) -> dict[str, tuple]:
        """Return a dictionary name -> the `tf.Variable`s, of one value, of this process's replicas.

        Args:
            metrics: whether to include the variables of the metrics, which each epoch resets.
        """
        variables = dict(self.named)
        if metrics:
            of_metrics = self._model.metrics_variables
            variables |= {f"metric_{i}": v for i, v in enumerate(of_metrics)}
        found: dict[str, tuple] = {}
        for name, variable in variables.items():
            value = variable.value if isinstance(variable, keras.Variable) else variable
            parts = self._model.distribute_strategy.experimental_local_results(value)
            if name in self.common:
                found[name] = parts
            else:
                found |= {name if i == 0 else f"{name}_{i}": (p,) for i, p in enumerate(parts)}
        return found

    def values(self, metrics: bool) -> dict[str, tf.Tensor]:
        """Return all values as they are now, on their devices; later updates leave them alone."""
        return {name: parts[0].read_value() for name, parts in self.parts(metrics).items()}

    def assign(self, values: dict[str, Any]) -> None:
        """Assign values by these names."""
        parts = self.parts(metrics=True)
        for name, value in values.items():
            for part in parts[name]:
                part.assign(value)
