"""Small networks in NumPy, many weights of the same one trained side by side."""

import numpy as np

_ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda a: (a > 0).astype(a.dtype)),
    "tanh": (np.tanh, lambda a: 1 - a * a),
    "linear": (lambda z: z, None),
}


class Network:
    """A multilayer perceptron whose weights lie in one flat vector, its gradient by hand.

    Weights have a leading axis of as many copies as are trained at once: (copies, size).

    Args:
        widths: list of integers, of the inputs, the hidden layers and the outputs.
        activation: `"relu"`, `"tanh"` or `"linear"`, of the hidden layers.
        loss: `"softmax"` for the cross-entropy of integer labels, `"squared"` for the mean square.
    """

    def __init__(self, widths, activation, loss):
        self.shapes = list(zip(widths[:-1], widths[1:], strict=True))
        self.size = sum(n * m + m for n, m in self.shapes)
        self._activation, self._slope = _ACTIVATIONS[activation]
        self._loss = loss

    def initial(self, generator, gain=1.0):
        """Return one flat vector: kernels of variance gain^2 / inputs, biases 0."""
        parts = []
        for n, m in self.shapes:
            parts += [generator.normal(0, gain / np.sqrt(n), n * m), np.zeros(m)]
        return np.concatenate(parts).astype("float32")

    def forward(self, weights, x):
        """Return the outputs of each layer, (copies, examples, units), inputs first."""
        outputs = [x]
        for i, (kernel, bias) in enumerate(self._parts(weights)):
            z = outputs[-1] @ kernel + bias[:, None]
            outputs.append(self._activation(z) if i + 1 < len(self.shapes) else z)
        return outputs

    def losses(self, weights, x, y):
        """Return the mean loss of each copy."""
        return self._losses(self.forward(weights, x)[-1], y)[0]

    def gradients(self, weights, x, y):
        """Return the losses, (copies,), and their gradients, (copies, size)."""
        outputs = self.forward(weights, x)
        losses, error = self._losses(outputs.pop(), y)
        gradient = np.empty_like(weights)
        kernels = [kernel for kernel, _ in self._parts(weights)]
        parts = self._parts(gradient)
        for i in reversed(range(len(kernels))):
            kernel, bias = parts[i]
            kernel[:] = np.swapaxes(outputs[i], -1, -2) @ error
            bias[:] = error.sum(axis=1)
            if i:
                error = error @ np.swapaxes(kernels[i], -1, -2)
                if self._slope:
                    error = error * self._slope(outputs[i])
        return losses, gradient

    def _parts(self, weights):
        """Return views of (kernel, bias) of each layer."""
        parts, at = [], 0
        for n, m in self.shapes:
            kernel = weights[:, at : at + n * m].reshape(-1, n, m)
            parts.append((kernel, weights[:, at + n * m : at + n * m + m]))
            at += n * m + m
        return parts

    def _losses(self, outputs, y):
        """Return the losses and their gradient with respect to the outputs."""
        examples = outputs.shape[1]
        if self._loss == "squared":
            error = outputs - y
            return np.mean(error**2, axis=(1, 2)), error * (2 / (examples * y.shape[-1]))
        shifted = outputs - outputs.max(axis=-1, keepdims=True)
        exponentials = np.exp(shifted)
        totals = exponentials.sum(axis=-1, keepdims=True)
        rows = np.arange(examples)
        losses = np.mean(np.log(totals[..., 0]) - shifted[:, rows, y], axis=1)
        error = exponentials / totals
        error[:, rows, y] -= 1
        return losses, error / np.float32(examples)
