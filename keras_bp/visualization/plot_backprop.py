"""A picture of one backward pass through a network."""

import keras

from keras_bp.visualization._backward import backward
from keras_bp.visualization._columns import columns_of
from keras_bp.visualization._figure import new_figure, tidy
from keras_bp.visualization._network import Network


def plot_backprop(model, x, y):
    r"""Draw a network with what one backward pass through it computes.

    The network is drawn from left to right, a circle a neuron:

    - A circle's colour is $\frac{1}{m} \sum_i |dZ_i|$, the neuron's gradient with respect to its
      pre-activation, averaged in absolute value over the m examples. $dZ_i$ is that of the
      example's own loss, as in the chapter: it does not shrink with the batch. A neuron without
      any gradient (a ReLU that is off for the whole batch) is grey. Inputs have no $dZ$.
    - A line's colour and width are its weight.
    - A bar below a layer is $\|dW\|_2$, the norm of the gradient of the batch's loss with respect
      to the layer's kernel, penalties of regularizers included.

    Of layers with more than 12 neurons the first 6 and the last 6 are drawn, and the picture says
    so. Branches of a functional model stand one above the other.

    The gradients are those of the next training step on this batch: with dropout, and with the
    batch's own statistics in batch normalization. Model, optimizer, metrics and seeds are left as
    they are.

    Args:
        model: a `keras.Model`, Sequential or functional, built, and compiled with a loss that
            averages over the batch, as losses do by default. It consists of `Dense` layers (of
            Keras or of keras_bp); between them may stand layers that keep each neuron apart:
            activations, dropout and noise, normalizations, `Flatten` and `Reshape`; branches may
            be joined by `Concatenate`, `Add` and the like. Only the inputs and the dense layers
            are drawn.
        x: array of shape `(batch, ...)`, or a list or a dictionary of them: a batch of inputs, all
            of which goes through the network at once.
        y: the batch's targets, as `fit` takes them.

    Returns:
        A Matplotlib `Figure`.

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if `model` is no `keras.Model`, or the batch no arrays.
        ValueError: if it is not compiled with a loss, not built, of another kind, or has a layer
            that cannot be drawn, which the message names; or if the batch is empty, or `x` and `y`
            do not have as many examples.

    Example:
        >>> from keras_bp.visualization import plot_backprop
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((2,)),
        ...         keras_bp.layers.Dense(8, activation="tanh"),
        ...         keras_bp.layers.Dense(1, activation="sigmoid"),
        ...     ]
        ... )
        >>> model.compile(loss="binary_crossentropy")
        >>> x, y = keras_bp.reference.spiral()
        >>> figure = plot_backprop(model, x.T, y.T)
        >>> figure.savefig("backprop.png")

    References:
        Rumelhart, Hinton and Williams, 1986, "Learning representations by back-propagating errors",
        equations 4 to 7.
    """
    columns = columns_of(model)
    if not model.compiled or model.loss is None:
        raise ValueError(
            "`model` must be compiled with a loss: call model.compile(optimizer, loss). "
            f"Received: model {model.name!r}, "
            + ("compiled without a loss" if model.compiled else "not compiled")
        )
    dense = [column.layer for column in columns if column.layer is not None]
    if not dense:
        raise ValueError(
            f"`model` must have a Dense layer. Received: model {model.name!r}, which has none"
        )
    _check_batch(x, y)
    passed = backward(model, dense, x, y)

    network = Network(columns, passed)
    figure = new_figure("plot_backprop", network.size)
    drawing, bars = figure.subplots(
        2, 1, sharex=True, height_ratios=[network.size[1] - network.bar_height, network.bar_height]
    )
    network.draw(drawing)
    network.draw_bars(bars)
    tidy(bars)
    bars.grid(visible=False, axis="x")
    examples = "1 example" if passed.batch_size == 1 else f"{passed.batch_size} examples"
    figure.suptitle(f"Backpropagation of a loss of {passed.loss:.4g} over {examples}")
    return figure


def _check_batch(x, y):
    for name, data in (("x", x), ("y", y)):
        if not all(getattr(leaf, "shape", ()) for leaf in keras.tree.flatten(data)):
            raise TypeError(
                f"`{name}` must be an array, or a list or a dictionary of arrays, with an axis of "
                f"examples. Received: {name}={data!r}"
            )
    sizes = {len(leaf) for leaf in keras.tree.flatten([x, y])}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "`x` and `y` must hold as many examples, and one or more. Received: arrays of "
            f"{' and '.join(map(str, sorted(sizes)))} examples"
        )
