"""Every private name of Keras and TensorFlow that the package uses.

Each has a line that says what we need it for and what goes wrong without it. A test per name
(tests/test_keras_private_names.py) fails with that line as soon as a version of Keras or TensorFlow
no longer has the name, before anything silently computes a wrong result.
"""

PRIVATE_NAMES = {
    # Layers and models
    "Layer._flatten_layers": "lists the layers inside a layer; without it no path has a name",
    "Layer._losses": "gradient_check empties it: graph tensors would outlive the check",
    "Layer._loss_ids": "gradient_check empties it together with `_losses`",
    "Layer._dtype_policy": "gradient_check makes a layer compute in float64 by it",
    "InputLayer._dtype": "gradient_check lets a model take float64 inputs by it",
    "Functional._inputs": "gradient_check finds a functional model's symbolic inputs by it",
    "Functional._inputs_struct": "MultiTaskModel makes its configuration of it, which Keras 3.13 "
    "and 3.14 make of other classes only",
    "Functional._outputs_struct": "likewise",
    "KerasTensor._dtype": "gradient_check lets a model take float64 inputs by it",
    "Variable._value": "gradient_check lends a variable a float64 value by it",
    "Variable._dtype": "gradient_check tells the variable's dtype of that value by it",
    "Loss._dtype": "gradient_check makes a loss compute in float64 by it",
    "Loss._dtype_policy": "gradient_check makes a loss compute in float64 by it",
    "Dense._kernel": "FeedbackDense creates its kernel as Keras's Dense does; files depend on it",
    "Embedding._embeddings": "our embeddings look rows up in the table that Keras created",
    "Sequential._functional": "plot_backprop reads the graph of a Sequential model from it",
    "Functional._nodes_by_depth": "plot_backprop orders layers by it",
    "KerasTensor._keras_history": "plot_backprop finds a functional model's input layers by it",
    # Tensors
    "tensor._keras_logits": "a loss finds the logits behind an activation by it; without it the "
    "loss silently falls back to the rounded probabilities",
    "tensor._keras_mask": "a loss leaves masked entries out of its mean by it; without it padding "
    "silently counts",
    # Training
    "Model._compile_loss": "MultiTaskModel takes each task's loss from it",
    "Model._loss_tracker": "MultiTaskModel reports the sum of the losses through it",
    "Model._compile_config": "OptimizerSwitch enters the new optimizer; without it a saved model "
    "silently holds the old one",
    "Model._initial_epoch": "ResumableTraining sets the epoch from which `fit` continues; without "
    "it a resumed training starts over",
    "Model.fit": "ResumableTraining reads the arguments of the running `fit` in its frame, and the "
    "iterator of its epochs; without them it cannot resume inside an epoch, and a resume on other "
    "data, or workers that call it otherwise, are not noticed",
    "Model._maybe_symbolic_build": "takes a batch for its shapes alone; workers would lose batches "
    "that come only once, of a generator, each another number of them",
    "GeneratorDataAdapter._first_batches": "such a batch that is not lost",
    "PyDatasetAdapter._standardize_batch": "likewise",
    "Model._symbolic_build": "ResumableTraining makes the metrics' variables before a batch",
    "Model._get_metrics_result_or_logs": "tells `fit` the last batch's logs where an epoch is "
    "resumed after its last batch; without it the history lacks that epoch",
    "EpochIterator._enumerate_iterator": "ResumableTraining counts an epoch's batches there, and "
    "begins inside an epoch",
    "EpochIterator._current_iterator": "goes on over several epochs with `steps_per_epoch`",
    "EpochIterator._steps_seen": "counts what was taken of that iterator",
    "Iterator._iterator_resource": "ResumableTraining reads and sets the position of a `tf.data` "
    "iterator by it",
    "CompileLoss._flat_losses": "MultiTaskModel listens to each output's loss there; Keras hands "
    "out their sum alone",
    "MonitorCallback._is_improvement": "OptimizerSwitch decides by it what a plateau is",
    "MonitorCallback._set_monitor_op": "OptimizerSwitch finds max or min of a metric by it",
    # Optimizers
    "Optimizer._accumulated_gradients": "the monitor reads the mean of an update's micro-steps "
    "there",
    "Optimizer._check_variables_are_known": "refuses a variable that the optimizer was not built "
    "with",
    "Optimizer._clip_gradients": "the monitor asks Keras's optimizers what clipping leaves",
    "Optimizer._distribution_strategy": "an update outside `fit` runs in the optimizer's strategy",
    "Optimizer._filter_empty_gradients": "leaves out variables without a gradient, with Keras's "
    "warning",
    "Optimizer._get_variable_index": "finds a variable's slots; their order is the file format",
    "Optimizer._iterations": "counts micro-steps, where `iterations` counts updates",
    "Optimizer._learning_rate": "holds the rate, a schedule or a callable",
    "Optimizer._model_variables_moving_average": "holds the averages of `use_ema`",
    "Optimizer._overwrite_variable_with_gradient": "puts float8 scales in place",
    "Optimizer._trainable_variables": "the variables that the optimizer was built with",
    "Optimizer._trainable_variables_indices": "tells which optimizer of a composite updates a "
    "variable",
    "Optimizer._use_weight_decay": "to_keras asks Keras's optimizers which variables decay; a "
    "configuration does not hold them",
    "Optimizer._var_key": "the key of a variable in `_trainable_variables_indices`",
    "MultiOptimizer._optimizer_map": "a lent learning rate reaches by it the optimizers that a "
    "composite creates late",
    # Traced functions and tapes
    "Function._function_cache": "an optimizer drops its traced steps from it when a schedule takes "
    "the place of its rate; they would silently go on with the old rate",
    "Function._omit_frequent_tracing_warning": "each object has traced functions of its own; "
    "at the fifth TensorFlow would warn that one function were traced again and again",
    "Operation._set_attr": "lets a tf.cond stay one operation; the monitor would be slower without",
    "sys._current_frames": "CPython's stacks of all threads, in which those functions are found",
    "GradientTape._persistent": "a combiner refuses a tape that gives only one gradient; "
    "without it TensorFlow's own error comes, which does not name the argument",
    # Modules
    "keras.src.backend.common.global_state": "holds the global seed and the counters of names; a "
    "trial would leave other names and seeds behind",
    "keras.src.random.seed_generator.global_seed_generator": "the state that dropout draws on; a "
    "resumed training would draw other masks",
    "keras.src.utils.tracking.Tracker": "a trial puts back what a layer tracked before",
    "tf.__internal__.tracking.TrackableDataStructure": "TensorFlow's stand-in for lists and "
    "dicts of an object; a trial would leave them as the training has changed them",
    "keras.src.callbacks.monitor_callback.MonitorCallback": "the base of EarlyStopping, whose "
    "arguments OptimizerSwitch has",
    "tensorflow.python.eager.context": "the operations' seeds and the cache of kernels; a trial "
    "would change the random numbers that follow",
    "context.eager_mode": "creates an optimizer's slots outside of the step that is being traced; "
    "without it each first step is traced twice",
    "Context._rng": "the state of the operations' seeds; likewise",
    "Context._seed": "the global seed; workers with different ones would not be noticed",
    "Context.abort_collective_ops": "tells workers which one is gone; without it they wait for it",
    "input_lib._calculate_replicas_with_values": "asks at each step how many workers have data; "
    "without its name one that has run out is not noticed",
    "tensorflow.python.eager.record": "tells whether a backward pass may be derived again; without "
    "it a slower form would be taken there",
    "tensorflow.python.eager.forwardprop_util": "tells whether forward mode follows a tensor; "
    "without it the tangent of a normalization in a function would be lost",
    "tensorflow.python.ops.stateful_random_ops": "TensorFlow's global generator; likewise",
    "tensorflow.python.ops.control_flow_util": "tells whether a function is traced for XLA; "
    "without it a slower form would be taken there",
}
