"""The histograms of a model's weights, gradients and outputs."""

import tensorflow as tf

from keras_bp._paths import variable_paths
from keras_bp.callbacks._histogram import count_values, rows


def write_weights(file, model, selection, step):
    """Write a histogram of each weight of the chosen layers."""
    paths = variable_paths(model)
    for weight in model.weights:
        layer, path = paths[id(weight)]
        if layer in selection:
            counted = count_values(tf.convert_to_tensor(weight.value))
            file.write_histogram(f"weights/{path}", rows(counted), step)


def write_sampled(file, model, recorder, selection, outputs, step):
    """Write the histograms that a `StepRecorder` has counted.

    Args:
        outputs: dictionary, number of a layer in the recorder's outputs -> its path.
        file: the `EventFile`.
        model: the model.
        recorder: the recorder.
        selection: the `LayerSelection`.
        step: the number of the update step.
    """
    gradients, layers = recorder.histograms()
    paths = variable_paths(model)
    for variable, counted in zip(recorder.variables, gradients, strict=True):
        layer, path = paths[id(variable)]
        if layer in selection:
            file.write_histogram(f"gradients/{path}", rows(counted), step)
    for i, path in outputs.items():
        file.write_histogram(f"activations/{path}", rows(layers[i]), step)
