"""The tab Gradients of TensorBoard: what the monitor has written, by layer and by step.

TensorBoard's own pages give all layers of a run one colour and no names, and read 1,000 points of
a tag. This tab reads the event files itself, by `keras_bp_runs.events.RunFiles`:

    event files -> RunFiles -> Run (kinds, layers, findings) -> Extremes (columns of steps)
                                                                   |  JSON, and arrays of float32
    browser:  index.js -> page.js -> heat_map.js, lines.js, ... <- data.js

**Thinned on the server, and no spike lost.** The browser gets at most about 1,000 columns, each
with the smallest and the largest value of its steps. Where that means reading more values than a
request may wait for, the first answer comes from every n-th record, and says so; a thread goes
through all the others, and the browser asks again. In a range of fewer steps than the map has
pixels a column is a step.

**In the browser** there is no framework, no build step and nothing from the network: a few modules
in `static/`, one for each concept, that draw on canvases.

TensorBoard imports this package as it starts, so it imports neither TensorFlow nor Keras.
"""
