"""Cheap trainings of several families, from which the meta-learner learns."""

import numpy as np

from tools.discovery.networks import Network

_EXAMPLES = 1024


class Task:
    """A training: first weights, batches, losses and gradients, for many copies at once.

    Attributes:
        family: string, a key of `FAMILIES`.
        optimizer: `"adam"`, `"momentum"` or `"sgd"`.
        total_steps: integer, the update steps of the whole training.
        weights: float32 array (size,), the first weights.
    """

    def __init__(self, family, optimizer, total_steps, weights):
        self.family = family
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.weights = weights

    def gradients(self, weights, generator):
        """Return losses (copies,) and gradients (copies, size) on a batch that is drawn."""
        raise NotImplementedError

    def losses(self, weights):
        """Return the training loss of each copy, (copies,), without a batch's noise."""
        raise NotImplementedError


class Quadratic(Task):
    r"""A noisy quadratic, $L(w) = (w - c)^T H (w - c) / 2$, each batch with a centre of its own.

    Args:
        eigenvalues: array (size,), of the curvature H.
        noise: number, how far from 0 a batch's centre lies in each direction.
        generator: the NumPy generator that turns H and draws the first weights.
        **facts: as in `Task`.
    """

    def __init__(self, eigenvalues, noise, generator, **facts):
        size = len(eigenvalues)
        super().__init__(weights=generator.normal(size=size).astype("float32"), **facts)
        directions, _ = np.linalg.qr(generator.normal(size=(size, size)))
        self._root = (directions * np.sqrt(eigenvalues)).astype("float32")
        self._noise = noise

    def gradients(self, weights, generator):
        """Return losses and gradients, see `Task`."""
        centre = self._noise * generator.standard_normal(len(self.weights), dtype="float32")
        along = (weights - centre) @ self._root
        return 0.5 * np.sum(along**2, axis=1), along @ self._root.T

    def losses(self, weights):
        """Return the mean loss over all centres."""
        mean = 0.5 * np.sum((weights @ self._root) ** 2, axis=1)
        return mean + 0.5 * self._noise**2 * np.sum(self._root**2)


class NetworkTask(Task):
    """A small network on made-up data.

    Args:
        network: a `Network`.
        x: inputs, float32 (examples, features).
        y: labels or targets.
        batch_size: integer.
        **facts: as in `Task`.
    """

    def __init__(self, network, x, y, batch_size, **facts):
        super().__init__(**facts)
        self.network = network
        self.x, self.y, self.batch_size = x, y, batch_size

    def gradients(self, weights, generator):
        """Return losses and gradients, see `Task`."""
        rows = generator.integers(len(self.x), size=self.batch_size)
        return self.network.gradients(weights, self.x[rows], self.y[rows])

    def losses(self, weights):
        """Return the mean loss over all examples."""
        return self.network.losses(weights, self.x, self.y)


def _facts(family, generator):
    return {
        "family": family,
        "optimizer": generator.choice(["adam", "adam", "momentum", "sgd"]),
        "total_steps": int(2 ** generator.uniform(8, 9.5)),
    }


def _network_task(generator, widths, activation, loss, x, y, facts):
    network = Network(widths, activation, loss)
    weights = network.initial(generator, np.sqrt(2) if activation == "relu" else 1.0)
    batch_size = int(2 ** generator.integers(3, 7))
    return NetworkTask(network, x.astype("float32"), y, batch_size, weights=weights, **facts)


def _hidden(generator, depths=(1, 2, 3)):
    return [int(2 ** generator.integers(3, 5))] * int(generator.choice(depths))


def _mixture(generator, classes, features, clusters):
    """Return inputs and labels of Gaussian clusters, some labels wrong."""
    spread = generator.uniform(0.7, 2.5)
    centres = spread * generator.normal(size=(classes * clusters, features)) / np.sqrt(features)
    which = generator.integers(classes * clusters, size=_EXAMPLES)
    deviations = np.exp(generator.uniform(0, 1) * generator.normal(size=features))
    x = centres[which] * np.sqrt(features) / 2 + generator.normal(size=(_EXAMPLES, features)) / 2
    wrong = generator.random(_EXAMPLES) < generator.choice([0.0, 0.0, 0.1, 0.3])
    labels = np.where(wrong, generator.integers(classes, size=_EXAMPLES), which % classes)
    return x * deviations / np.sqrt(np.mean((x * deviations) ** 2)), labels


def _quadratic(generator, family):
    size = int(2 ** generator.integers(4, 8))
    eigenvalues = np.arange(1, size + 1.0) ** -generator.uniform(0.3, 2)
    scale = 10 ** generator.uniform(-1, 1)
    noise = 10 ** generator.uniform(-2, 0.3) / np.sqrt(2 ** generator.integers(0, 6))
    return Quadratic(scale * eigenvalues, noise, generator, **_facts(family, generator))


def _softmax(generator, family):
    classes, features = int(generator.integers(2, 12)), int(2 ** generator.integers(3, 6))
    data = _mixture(generator, classes, features, 1)
    facts = _facts(family, generator)
    return _network_task(generator, [features, classes], "linear", "softmax", *data, facts)


def _classifier(generator, family):
    classes, features = int(generator.integers(2, 12)), int(2 ** generator.integers(3, 6))
    data = _mixture(generator, classes, features, int(generator.integers(2, 5)))
    widths = [features, *_hidden(generator), classes]
    activation = generator.choice(["relu", "tanh"])
    return _network_task(generator, widths, activation, "softmax", *data, _facts(family, generator))


def _teacher(generator, family):
    features, outputs = int(2 ** generator.integers(2, 6)), int(generator.integers(1, 5))
    activation = generator.choice(["relu", "tanh"])
    teacher = Network([features, *_hidden(generator), outputs], activation, "squared")
    x = generator.normal(size=(_EXAMPLES, features)).astype("float32")
    y = teacher.forward(teacher.initial(generator, 1.5)[None], x)[-1][0]
    y = (y - y.mean()) / (y.std() + 1e-6)
    y = y + generator.choice([0, 0.1, 0.5]) * generator.normal(size=y.shape)
    widths = [features, *_hidden(generator), outputs]
    facts = _facts(family, generator)
    return _network_task(generator, widths, activation, "squared", x, y.astype("float32"), facts)


def _autoencoder(generator, family):
    features, rank = int(2 ** generator.integers(3, 6)), int(2 ** generator.integers(1, 4))
    loadings = generator.normal(size=(rank, features)) * np.arange(1, rank + 1)[:, None] ** -0.5
    x = generator.normal(size=(_EXAMPLES, rank)) @ loadings
    x = x + 0.2 * generator.normal(size=x.shape)
    x = (x / x.std()).astype("float32")
    widths = [features, 2 * rank, features]
    activation = generator.choice(["linear", "tanh"])
    return _network_task(generator, widths, activation, "squared", x, x, _facts(family, generator))


def _words(generator, family):
    """Classes of short texts, as bags of words: the rare words have rare gradients."""
    words, classes = int(2 ** generator.integers(5, 7)), int(generator.integers(2, 8))
    frequencies = np.arange(1, words + 1.0) ** -generator.uniform(0.3, 1.2)
    text = generator.choice(
        words, (_EXAMPLES, int(generator.integers(3, 12))), p=frequencies / frequencies.sum()
    )
    x = np.zeros((_EXAMPLES, words))
    np.add.at(x, (np.arange(_EXAMPLES)[:, None], text), 1.0)
    scores = x @ generator.normal(size=(words, classes)) * generator.uniform(1, 4)
    labels = np.argmax(scores + generator.gumbel(size=scores.shape), axis=1)
    widths = [words, *_hidden(generator, (0, 1, 2)), classes]
    activation = generator.choice(["relu", "tanh"])
    facts = _facts(family, generator)
    return _network_task(generator, widths, activation, "softmax", x, labels, facts)


def _bigrams(generator, family):
    """The next character from the one before: the rare ones have rare gradients."""
    characters, width = int(generator.integers(12, 40)), int(2 ** generator.integers(3, 5))
    frequencies = np.arange(1, characters + 1.0) ** -generator.uniform(0.5, 1.3)
    before = generator.choice(characters, _EXAMPLES, p=frequencies / frequencies.sum())
    logits = generator.uniform(1, 3) * generator.normal(size=(characters, characters))
    logits = logits + np.log(frequencies)
    noise = generator.gumbel(size=(_EXAMPLES, characters))
    following = np.argmax(logits[before] + noise, axis=1)
    widths = [characters, width, *_hidden(generator, (0, 1)), characters]
    data = np.eye(characters)[before], following
    activation = generator.choice(["linear", "relu"])
    return _network_task(generator, widths, activation, "softmax", *data, _facts(family, generator))


FAMILIES = {
    "quadratic": _quadratic,
    "softmax": _softmax,
    "classifier": _classifier,
    "teacher": _teacher,
    "words": _words,
    "autoencoder": _autoencoder,
    "bigrams": _bigrams,
}
"""Name of a family -> function of a NumPy generator and the name that returns a `Task`."""

# Never learnt from, and the learner is not chosen by them.
HELD_OUT = ("autoencoder", "bigrams")


def make_task(family, number):
    """Return the task of a family, a key of `FAMILIES`, with a number, always the same one."""
    names = list(FAMILIES)
    if family not in names:
        raise ValueError(f"`family` must be one of {names}. Received: family={family!r}")
    generator = np.random.default_rng([names.index(family), number])
    return FAMILIES[family](generator, family)
