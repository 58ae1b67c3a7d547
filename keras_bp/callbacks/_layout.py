"""The page of charts that TensorBoard shows under Custom Scalars."""

import re

from tensorboard.plugins.custom_scalar import layout_pb2, summary

_CHARTS = [
    ("Gradient norm of each layer", [r"gradient_norm/(?!global$)"]),
    ("Gradient norm of all layers, received and applied", [r"gradient_norm\w*/global$"]),
    ("Update ratio of each layer (healthy near 1e-3)", [r"update_ratio/"]),
    ("Weight norm of each layer", [r"weight_norm/"]),
    ("Degrees between the gradient of each layer and the true one", [r"alignment_angle/"]),
    ("Share of equal signs in the two", [r"sign_concordance/"]),
    ("Learning rate", [r"learning_rate"]),
    ("Loss of each batch", [r"loss/batch$"]),
    ("Metrics of each epoch", [r"epoch/"]),
    ("Share of dead units in each layer", [r"dead_units/"]),
    ("Share of saturated outputs of each layer", [r"saturated_units/"]),
    ("Share of the updates that clipping changed", [r"clip_rate$"]),
]


def layout(tags):
    """Return the `Summary` that holds the layout: the charts that some of the tags belong to."""
    # TensorBoard matches an expression at a tag's start only.
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=expressions))
        for title, expressions in _CHARTS
        if any(re.match(expression, tag) for expression in expressions for tag in tags)
    ]
    category = layout_pb2.Category(title="keras_bp: what the gradients do", chart=charts)
    return summary.pb(layout_pb2.Layout(category=[category]))
