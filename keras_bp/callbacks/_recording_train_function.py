"""A model's train function that lets recorders see each step's loss and gradients."""

import contextlib


class RecordingTrainFunction:
    """Stands in for `model.train_function` while a monitored `fit` runs.

    `fit` calls `self.train_function` by name for every batch. This object takes its place and
    holds two functions: the model's own, and one traced while the optimizer's `scale_loss` and
    `apply` also call the recorders. Only a call announced by `arm` runs the second, and only
    while it runs are the optimizer's methods replaced. So `train_on_batch` is never recorded, and
    a `fit` that an exception ends leaves no trace in the optimizer, and in the model no more than
    this object, which then runs the model's own function.

    Several recorders share the traced function, so that several monitors can watch one `fit`.

    Args:
        model: a compiled `keras.Model`.
    """

    def __init__(self, model):
        model.make_train_function()
        self._optimizer = model.optimizer
        self._model = model
        self._plain = model.train_function
        self._recording = None
        self._recorders = []
        self._armed = False

    @classmethod
    def of(cls, model):
        """Return the one that stands in the model already, or put one there."""
        function = model.train_function
        return function if isinstance(function, cls) else cls(model)

    @classmethod
    def remove_from(cls, model):
        """Give the model its own train function back, if one stands in for it."""
        if isinstance(model.train_function, cls):
            model.train_function = model.train_function._plain

    def add(self, recorder):
        """Let one more recorder see the steps to come."""
        self._recorders.append(recorder)
        self._model.make_train_function(force=True)
        self._recording = self._model.train_function
        self._model.train_function = self

    def in_place(self):
        """Tell whether the model still calls this function."""
        return self._model.train_function is self

    def arm(self):
        """Record the next call."""
        self._armed = True

    def __call__(self, iterator):
        if not self._armed:
            return self._plain(iterator)
        self._armed = False
        with self._watched_optimizer():
            return self._recording(iterator)

    @contextlib.contextmanager
    def _watched_optimizer(self):
        # The instance's dictionary is written to directly: Keras's __setattr__ would track it.
        attributes = vars(self._optimizer)
        watched = {"scale_loss": self._watched_scale_loss(), "apply": self._watched_apply()}
        replaced = {name: attributes[name] for name in watched if name in attributes}
        attributes.update(watched)
        try:
            yield
        finally:
            for name in watched:
                del attributes[name]
            attributes.update(replaced)

    def _watched_scale_loss(self):
        scale_loss = self._optimizer.scale_loss

        def watched_scale_loss(loss):
            for recorder in self._recorders:
                recorder.see_loss(loss, scale_loss)
            return scale_loss(loss)

        return watched_scale_loss

    def _watched_apply(self):
        apply = self._optimizer.apply

        def watched_apply(gradients, trainable_variables=None):
            variables = trainable_variables or self._model.trainable_variables
            with contextlib.ExitStack() as stack:
                for recorder in self._recorders:
                    stack.enter_context(recorder.see_update(gradients, variables))
                return apply(gradients, trainable_variables)

        return watched_apply
