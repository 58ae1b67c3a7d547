"""The update rules: SGD, Momentum, NAG, RMSprop, and Adam, AdamW and LAMB with two averages."""

from collections.abc import Callable, Sequence

import numpy as np

from keras_bp._arguments import check_number
from keras_bp._types import Array

Schedule = Callable[[int], float]
"""A function of the number of updates made so far that returns the learning rate."""


class Optimizer:
    """Base of the rules: the learning rate, the count of updates, one state per array.

    A rule's subclass defines `_rule(theta, g, state, rate, index)`, which returns the new array and
    writes its averages into `state`, a dictionary that begins empty. A missing average counts as 0.

    Args:
        learning_rate: float >= 0, or a schedule: a function of the number of updates made
            before this one (0 at the first), as Keras's optimizers call theirs.

    Attributes:
        t: int, the number of updates made; during an update, that update's number from 1.
        state: list of dictionaries, one for each array; empty before the first update.

    Example:
        >>> from keras_bp.reference import Optimizer
        >>> class SignDescent(Optimizer):
        ...     def _rule(self, theta, g, state, rate, index):
        ...         return theta - rate * np.sign(g)
        >>> [theta] = SignDescent(0.1).step([[1.0, 2.0]], [[0.5, -1.0]])
        >>> theta.tolist()
        [0.9, 2.1]
    """

    def __init__(self, learning_rate: float | Schedule) -> None:
        if not callable(learning_rate):
            learning_rate = check_number("learning_rate", learning_rate, 0.0)
        self.learning_rate = learning_rate
        self.t = 0
        self.state: list[dict[str, np.ndarray]] = []

    @property
    def rate(self) -> float:
        """The learning rate of the next update, a float.

        Raises:
            ValueError: if a schedule returns a negative or non-finite rate.
        """
        if callable(self.learning_rate):
            return check_number("learning_rate(step)", self.learning_rate(self.t), 0.0)
        return self.learning_rate

    def step(self, parameters: Sequence[Array], gradients: Sequence[Array]) -> list[np.ndarray]:
        """Make one update.

        Args:
            parameters: list of float64 arrays; they are left as they are.
            gradients: list of arrays of the same shapes, the cost's gradients at `parameters`.

        Returns:
            A list of new float64 arrays.

        Raises:
            ValueError: if the shapes differ, or the number of arrays changes between updates.
        """
        parameters = [np.asarray(theta, dtype=np.float64) for theta in parameters]
        gradients = [np.asarray(g, dtype=np.float64) for g in gradients]
        shapes = [theta.shape for theta in parameters]
        if [g.shape for g in gradients] != shapes:
            raise ValueError(
                f"`gradients` must have the shapes of `parameters`, {shapes}. "
                f"Received: shapes {[g.shape for g in gradients]}"
            )
        rate = self.rate
        state = self.state or [{} for _ in parameters]
        if len(state) != len(parameters):
            raise ValueError(
                f"`parameters` must hold {len(state)} arrays, as in the updates before. "
                f"Received: {len(parameters)} arrays"
            )
        self.t += 1
        self.state = state
        return [
            self._rule(theta, g, state[index], rate, index)
            for index, (theta, g) in enumerate(zip(parameters, gradients, strict=True))
        ]

    def _rule(self, theta, g, state, rate, index):
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent: theta -= a g.

    Batch, stochastic and mini-batch descent are this rule with the gradient of all examples,
    of one, or of some.

    Args:
        learning_rate: float >= 0, or a schedule. Defaults to 0.01.

    Example:
        >>> from keras_bp.reference import SGD
        >>> [theta] = SGD(0.1).step([[1.0, 2.0]], [[0.5, -1.0]])
        >>> theta.tolist()
        [0.95, 2.1]
    """

    def __init__(self, learning_rate: float | Schedule = 0.01) -> None:
        super().__init__(learning_rate)

    def _rule(self, theta, g, state, rate, index):
        return theta - rate * g


class Momentum(Optimizer):
    """Momentum as an exponential moving average: v = b v + (1 - b) g; theta -= a v.

    Keras's SGD(momentum=b) accumulates v = b v - a g instead. At a constant rate its steps are
    these with a / (1 - b) in place of a.

    Args:
        learning_rate: float >= 0, or a schedule. Defaults to 0.01.
        beta: float in [0, 1), the average's decay. Defaults to 0.9.

    Example:
        >>> from keras_bp.reference import Momentum
        >>> [theta] = Momentum(0.1).step([[1.0, 2.0]], [[0.5, -1.0]])
        >>> theta.round(4).tolist()
        [0.995, 2.01]

    References:
        Polyak, 1964, "Some methods of speeding up the convergence of iteration methods".
    """

    def __init__(self, learning_rate: float | Schedule = 0.01, beta: float = 0.9) -> None:
        super().__init__(learning_rate)
        self.beta = check_number("beta", beta, 0.0, 1.0, high_open=True)

    def _rule(self, theta, g, state, rate, index):
        state["v"] = self.beta * state.get("v", 0.0) + (1.0 - self.beta) * g
        return theta - rate * state["v"]


class NAG(Optimizer):
    """Nesterov's accelerated gradient on stored look-ahead weights.

    Nesterov's rule takes the gradient ahead of theta, at phi = theta - b v:

        v' = b v + a grad(phi);  theta' = theta - v'

    Here the trained arrays are phi itself, so that the gradient that a network computes is the one
    that the rule needs. Putting theta = phi + b v into the two lines gives

        v' = b v + a g;  phi' = phi - a g - b v'

    theta is phi + beta * state["v"] at any time; the two meet as v goes to 0.

    Args:
        learning_rate: float >= 0, or a schedule. Defaults to 0.01.
        beta: float in [0, 1), the velocity's decay. Defaults to 0.9.

    Example:
        >>> from keras_bp.reference import NAG
        >>> [phi] = NAG(0.1).step([[1.0, 2.0]], [[0.5, -1.0]])
        >>> phi.round(4).tolist()
        [0.905, 2.19]

    References:
        Sutskever et al., 2013, "On the importance of initialization and momentum in deep learning",
        equations 3 and 4.
    """

    def __init__(self, learning_rate: float | Schedule = 0.01, beta: float = 0.9) -> None:
        super().__init__(learning_rate)
        self.beta = check_number("beta", beta, 0.0, 1.0, high_open=True)

    def _rule(self, phi, g, state, rate, index):
        state["v"] = self.beta * state.get("v", 0.0) + rate * g
        return phi - rate * g - self.beta * state["v"]


class RMSprop(Optimizer):
    """RMSprop: s = b2 s + (1 - b2) g^2; theta -= a g / (sqrt(s) + eps).

    Epsilon stands outside the root; Keras's RMSprop has it inside.

    Args:
        learning_rate: float >= 0, or a schedule. Defaults to 0.001.
        beta_2: float in [0, 1), the decay of the squares' average. Defaults to 0.999.
        epsilon: float > 0. Defaults to 1e-8.

    Example:
        >>> from keras_bp.reference import RMSprop
        >>> [theta] = RMSprop(0.001).step([[1.0, 2.0]], [[0.5, -1.0]])
        >>> theta.round(4).tolist()
        [0.9684, 2.0316]

    References:
        Tieleman and Hinton, 2012, "Neural networks for machine learning", lecture 6.5.
    """

    def __init__(
        self, learning_rate: float | Schedule = 0.001, beta_2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__(learning_rate)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)

    def _rule(self, theta, g, state, rate, index):
        state["s"] = self.beta_2 * state.get("s", 0.0) + (1.0 - self.beta_2) * g**2
        return theta - rate * g / (np.sqrt(state["s"]) + self.epsilon)


class Adam(Optimizer):
    """Adam: a step along the gradient's mean, scaled by its root mean square.

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        mh = m / (1 - b1^t);  vh = v / (1 - b2^t)
        theta -= a mh / (sqrt(vh) + eps)

    Both averages begin at 0; dividing by 1 - b^t corrects for that. Epsilon
    is added to the corrected root. Keras's Adam adds it to the uncorrected one, which
    is a larger epsilon in the first steps.

    Args:
        learning_rate: float >= 0, or a schedule. Defaults to 0.001.
        beta_1: float in [0, 1), the mean's decay. Defaults to 0.9.
        beta_2: float in [0, 1), the decay of the squares' average. Defaults to 0.999.
        epsilon: float > 0. Defaults to 1e-8.

    Example:
        >>> from keras_bp.reference import Adam
        >>> [theta] = Adam(0.001).step([[1.0, 2.0]], [[0.2, -0.5]])
        >>> theta.round(6).tolist()
        [0.999, 2.001]

    References:
        Kingma and Ba, 2015, "Adam: a method for stochastic optimization", algorithm 1.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1 = check_number("beta_1", beta_1, 0.0, 1.0, high_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)

    def _rule(self, theta, g, state, rate, index):
        return theta - rate * self._direction(g, state)

    def _direction(self, g, state):
        state["m"] = self.beta_1 * state.get("m", 0.0) + (1.0 - self.beta_1) * g
        state["v"] = self.beta_2 * state.get("v", 0.0) + (1.0 - self.beta_2) * g**2
        m_hat, v_hat = self.corrected(state)
        return m_hat / (np.sqrt(v_hat) + self.epsilon)

    def corrected(self, state: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return one array's averages after update t, corrected for their start: (mh, vh)."""
        m_hat = state["m"] / (1.0 - self.beta_1**self.t)
        v_hat = state["v"] / (1.0 - self.beta_2**self.t)
        return m_hat, v_hat


class _DecayingAdam(Adam):
    """Adam with a weight decay that some arrays, such as biases, are excluded from."""

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        weight_decay: float = 0.01,
        decay_mask: Sequence[bool] | None = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon)
        self.weight_decay = check_number("weight_decay", weight_decay, 0.0)
        self.decay_mask = None if decay_mask is None else [bool(flag) for flag in decay_mask]

    def step(self, parameters: Sequence[Array], gradients: Sequence[Array]) -> list[np.ndarray]:
        if self.decay_mask is not None and len(self.decay_mask) != len(parameters):
            raise ValueError(
                f"`decay_mask` must hold one bool for each of the {len(parameters)} arrays. "
                f"Received: decay_mask={self.decay_mask}"
            )
        return super().step(parameters, gradients)

    def _decay(self, index):
        decayed = self.decay_mask is None or self.decay_mask[index]
        return self.weight_decay if decayed else 0.0


class AdamW(_DecayingAdam):
    """Adam with decoupled decay: theta -= a (mh / (sqrt(vh) + eps) + lambda theta).

    The decay does not pass through the averages, so that every weight shrinks by the same
    share, however large its gradients are.

    Args:
        learning_rate: float >= 0, or a schedule. Defaults to 0.001.
        weight_decay: float >= 0, lambda. Defaults to 0.01.
        decay_mask: list of bools, which arrays decay; `Network.decay_mask` leaves out the
            biases. Defaults to `None`: all.
        beta_1: float in [0, 1). Defaults to 0.9.
        beta_2: float in [0, 1). Defaults to 0.999.
        epsilon: float > 0. Defaults to 1e-8.

    Example:
        >>> from keras_bp.reference import AdamW
        >>> optimizer = AdamW(0.001, weight_decay=0.1, decay_mask=[True, False])
        >>> W, b = optimizer.step([[1.0], [1.0]], [[0.0], [0.0]])
        >>> W.tolist(), b.tolist()
        ([0.9999], [1.0])

    References:
        Loshchilov and Hutter, 2019, "Decoupled weight decay regularization", algorithm 2.
    """

    def _rule(self, theta, g, state, rate, index):
        return theta - rate * (self._direction(g, state) + self._decay(index) * theta)


class LAMB(_DecayingAdam):
    """Adam's direction with decay, rescaled so that each array moves by a share of its norm.

        u = mh / (sqrt(vh) + eps) + lambda w
        w -= a (||w|| / ||u||) u

    The ratio is 1 where either norm is 0. The decay lies inside it; an array that is excluded
    from the decay keeps its ratio, as in the paper.

    Args:
        learning_rate: float >= 0, or a schedule. Defaults to 0.001.
        weight_decay: float >= 0, lambda. Defaults to 0.01.
        decay_mask: list of bools, which arrays decay; `Network.decay_mask` leaves out the
            biases. Defaults to `None`: all.
        beta_1: float in [0, 1). Defaults to 0.9.
        beta_2: float in [0, 1). Defaults to 0.999.
        epsilon: float > 0. Defaults to 1e-8.

    Example:
        >>> from keras_bp.reference import LAMB
        >>> [w] = LAMB(0.1, weight_decay=0.0).step([[3.0, 4.0]], [[1.0, 1.0]])
        >>> w.round(4).tolist()  # moved by 0.1 of the norm 5, along (1, 1)
        [2.6464, 3.6464]

    References:
        You et al., 2020, "Large batch optimization for deep learning: training BERT in 76 minutes",
        algorithm 2.
    """

    def _rule(self, w, g, state, rate, index):
        u = self._direction(g, state) + self._decay(index) * w
        w_norm, u_norm = np.linalg.norm(w), np.linalg.norm(u)
        ratio = w_norm / u_norm if w_norm > 0.0 and u_norm > 0.0 else 1.0
        return w - rate * ratio * u
