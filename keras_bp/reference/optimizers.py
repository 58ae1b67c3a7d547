"""The chapter's first-order update rules: SGD, Momentum, NAG and RMSprop.

The rules of the Adam family stand in `adaptive_moments`.
"""

import numpy as np

from keras_bp.reference._checks import check_number


class Optimizer:
    """What all rules share: the learning rate, the count of updates, one state an array.

    A rule's subclass defines `_rule(theta, g, state, rate, index)`, which returns the new array
    and writes its averages into `state`, a dictionary that begins empty. An average that is not
    there yet counts as 0.

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

    def __init__(self, learning_rate):
        if not callable(learning_rate):
            learning_rate = check_number("learning_rate", learning_rate, 0.0)
        self.learning_rate = learning_rate
        self.t = 0
        self.state = []

    @property
    def rate(self):
        """The learning rate of the next update, a float.

        Raises:
            ValueError: if a schedule returns a negative or non-finite rate.
        """
        if callable(self.learning_rate):
            return check_number("learning_rate(step)", self.learning_rate(self.t), 0.0)
        return self.learning_rate

    def step(self, parameters, gradients):
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

    def __init__(self, learning_rate=0.01):
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

    def __init__(self, learning_rate=0.01, beta=0.9):
        super().__init__(learning_rate)
        self.beta = check_number("beta", beta, 0.0, 1.0, high_open=True)

    def _rule(self, theta, g, state, rate, index):
        state["v"] = self.beta * state.get("v", 0.0) + (1.0 - self.beta) * g
        return theta - rate * state["v"]


class NAG(Optimizer):
    """Nesterov's accelerated gradient on stored look-ahead weights.

    The chapter takes the gradient ahead of theta, at phi = theta - b v:

        v' = b v + a grad(phi);  theta' = theta - v'

    Here the arrays that are trained are phi itself, so that the gradient which a network
    computes is the one that the rule needs. Putting theta = phi + b v into the two lines gives

        v' = b v + a g;  phi' = phi - a g - b v'

    theta can be had at any time as phi + beta * state["v"]; the two meet as v goes to 0.

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

    def __init__(self, learning_rate=0.01, beta=0.9):
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

    def __init__(self, learning_rate=0.001, beta_2=0.999, epsilon=1e-8):
        super().__init__(learning_rate)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)

    def _rule(self, theta, g, state, rate, index):
        state["s"] = self.beta_2 * state.get("s", 0.0) + (1.0 - self.beta_2) * g**2
        return theta - rate * g / (np.sqrt(state["s"]) + self.epsilon)
