"""The layers that a user wants to see."""

from keras_bp._paths import layer_paths, variable_paths


class LayerSelection:
    """Tells which layers were chosen, by path; a path stands for the layers inside it too.

    Args:
        paths: list of strings, or None for all layers.
    """

    def __init__(self, paths):
        if paths is not None:
            known = isinstance(paths, list | tuple) and all(isinstance(p, str) for p in paths)
            if not known:
                raise TypeError(f"`layers` must be a list of strings or None. Received: {paths!r}")
            if not paths:
                raise ValueError(f"`layers` must name a layer, or be None. Received: {paths!r}")
        self._paths = None if paths is None else tuple(paths)

    def __contains__(self, path):
        return self._paths is None or any(_within(path, chosen) for chosen in self._paths)

    def check(self, model):
        """Raise unless every path names layers of a built model."""
        paths = {layer for layer, _ in variable_paths(model).values()}
        paths |= set(layer_paths(model).values())
        for chosen in self._paths or ():
            if not any(_within(path, chosen) for path in paths):
                raise ValueError(
                    f"`layers` must name layers of the model, by path: {sorted(paths)}. "
                    f"Received: {chosen!r}"
                )


def _within(path, chosen):
    return path == chosen or path.startswith(f"{chosen}/")
