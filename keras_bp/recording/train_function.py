"""A model's train function that lets recorders see each step's loss and gradients."""

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any, Self

import keras
import tensorflow as tf

from keras_bp._trial import replaced_attributes
from keras_bp.recording.recorder import Recorder

_HANDED = "keras_bp/handed_out"  # among the logs that a step returns


class RecordingTrainFunction:
    """Stands in for `model.train_function` while a recorded `fit` runs.

    `fit` calls `self.train_function` by name for every batch. This object takes its place and holds
    the model's own function, one traced while the optimizer's `scale_loss` and `apply`, the model's
    `compute_loss` and perhaps the layers' `call` also call the recorders, and one in which these
    sample costly quantities too. Only a call announced by `arm` runs one of the latter, and methods
    are replaced only while the Python code of `train_step` runs, as it is traced. So
    `train_on_batch` is never recorded, and a `fit` that an exception ends leaves no trace in
    optimizer and layers, and in the model only this object, which then runs the model's own
    function.

    Several recorders share the traced functions, so that several callbacks can watch one `fit`.

    Args:
        model: a compiled `keras.Model`.
    """

    def __init__(self, model: keras.Model) -> None:
        model.make_train_function()
        self._optimizer = model.optimizer
        self._model = model
        self._plain = model.train_function
        self._recording: dict[bool, Callable] = {}
        self._recorders: list[Recorder] = []
        self._guests: list[Recorder] = []
        self._armed = self._sampling = False
        self._replicas, self._watching = 0, contextlib.ExitStack()
        self.kept = True
        """Whether the last call has kept all its steps: a recorder's `run` may take some back."""
        self.run_directories: dict[str, str] = {}
        """Maps each `log_dir` of the callbacks to the directory that they share in this `fit`."""

    @classmethod
    def of(cls, model: keras.Model) -> Self:
        """Return the model's recording train function, which is put in place if there is none."""
        if not isinstance(model.train_function, cls):
            model.train_function = cls(model)
        return model.train_function

    @classmethod
    def remove_from(cls, model: keras.Model) -> None:
        """Restore the model's own train function, if one stands in for it."""
        if isinstance(model.train_function, cls):
            model.train_function = model.train_function._plain

    def add(self, recorder: Recorder, guest: bool = False) -> None:
        """Let another recorder see the coming steps, a guest only those of this `fit`."""
        self._recorders.append(recorder)
        if guest:
            self._guests.append(recorder)
        self._recording = {}

    def put_back(self, model: keras.Model) -> bool:
        """Stand in again if the model still has the same function; tell whether it has."""
        if model.train_function is self._plain and model.optimizer is self._optimizer:
            model.train_function = self
            if self._guests:
                # An exception has ended their `fit`.
                self._recorders = [r for r in self._recorders if r not in self._guests]
                self._guests, self._recording = [], {}
            for recorder in self._recorders:
                recorder.rest()
        return model.train_function is self

    def in_place(self) -> bool:
        """Tell whether the model still calls this function."""
        return self._model.train_function is self

    @property
    def recorders(self) -> list[Recorder]:
        """The recorders of this `fit`, and of earlier ones with the same traced functions."""
        return [*self._recorders]

    @property
    def created(self) -> list[tf.Variable]:
        """The variables that recorded steps write."""
        return [variable for recorder in self._recorders for variable in recorder.created]

    def arm(self, sampling: bool = False) -> None:
        """Record the next call, with costly quantities too if a callback asks for `sampling`."""
        self._armed = True
        self._sampling |= sampling

    def __call__(self, iterator: Any) -> Any:
        """Run the coming steps, recorded if `arm` has announced it."""
        if not self._armed:
            return self._plain(iterator)
        sampling, self._armed, self._sampling = self._sampling, False, False
        self.kept = True
        for recorder in self._recorders:
            recorder.sampling = sampling
            recorder.prepare()
        watched = self._watched_train_step()
        with replaced_attributes(self._model, train_step=watched):
            try:
                function = self._function(sampling)
                for recorder in self._recorders:
                    function = functools.partial(recorder.run, function)
                logs = function(iterator)
            except tf.errors.InvalidArgumentError as error:
                words = _wrong_label(error)
                if not words:
                    raise
                raise ValueError(words) from error
        if _HANDED in logs:
            for recorder, tensors in zip(self._recorders, logs.pop(_HANDED), strict=True):
                recorder.take(tensors)
        return logs

    def _function(self, sampling):
        """Return the function to trace, which keeps what was traced."""
        if sampling not in self._recording:
            self._model.make_train_function(force=True)
            self._recording[sampling] = self._model.train_function
            self._model.train_function = self
        return self._recording[sampling]

    def _watched_train_step(self):
        """Return the model's `train_step` that is watched as its Python code runs.

        That is while it is traced, once in each replica's thread, or in each step run eagerly.
        """
        train_step = self._model.train_step

        def watched_train_step(data):
            with self._watched(), contextlib.ExitStack() as stack:
                for recorder in self._recorders:
                    stack.enter_context(recorder.in_replica())
                    recorder.see_data(data)
                logs = train_step(data)
                handed = tuple(recorder.hand_out() for recorder in self._recorders)
                return {**logs, _HANDED: handed} if any(handed) else logs

        return watched_train_step

    @contextlib.contextmanager
    def _watched(self):
        """Replace methods of the optimizer, the model and layers, until the last replica is done.

        A replica waits inside for the others, which begin meanwhile.
        """
        if not self._replicas:
            with contextlib.ExitStack() as stack:
                for recorder in self._recorders:
                    stack.enter_context(recorder.watching())
                stack.enter_context(self._watched_optimizer())
                watched = {"compute_loss": self._watched_compute_loss()}
                stack.enter_context(replaced_attributes(self._model, **watched))
                self._watching = stack.pop_all()
        self._replicas += 1
        try:
            yield
        finally:
            self._replicas -= 1
            if not self._replicas:
                self._watching.close()

    def _watched_optimizer(self):
        watched = {"scale_loss": self._watched_scale_loss(), "apply": self._watched_apply()}
        return replaced_attributes(self._optimizer, **watched)

    def _watched_scale_loss(self):
        scale_loss = self._optimizer.scale_loss

        def watched_scale_loss(loss):
            for recorder in self._recorders:
                recorder.see_loss(loss, scale_loss)
            return scale_loss(loss)

        return watched_scale_loss

    def _watched_compute_loss(self):
        compute_loss = self._model.compute_loss

        def watched_compute_loss(*args, **kwargs):
            loss = compute_loss(*args, **kwargs)
            for recorder in self._recorders:
                recorder.see_computed_loss(loss)
            return loss

        return watched_compute_loss

    def _watched_apply(self):
        apply = self._optimizer.apply

        def watched_apply(gradients, trainable_variables=None):
            variables = trainable_variables or self._model.trainable_variables
            with contextlib.ExitStack() as stack:
                for recorder in self._recorders:
                    stack.enter_context(recorder.see_update(gradients, variables))
                return apply(gradients, trainable_variables)

        return watched_apply


# As `ops` words it, and TensorFlow's kernel.
_WRONG_LABEL = re.compile(
    r"assertion failed: (\[Labels \(`target`.*)|(Received a label value of -?\d+ which is .*)"
)


def _wrong_label(error):
    """Return what an error says of a label outside of the classes, None if it says nothing of it.

    TensorFlow's own message is a page on where the operation was made.
    """
    found = _WRONG_LABEL.search(error.message)
    words = found and found[found.lastindex].split(" [Op:")[0]
    return words and re.sub(r"\[([^][]*)\]", r"\1", words)
