"""The chapter's rules with two bias-corrected averages: Adam, AdamW and LAMB."""

import numpy as np

from keras_bp.reference._checks import check_number
from keras_bp.reference.optimizers import Optimizer


class Adam(Optimizer):
    """Adam: a step along the gradient's mean, scaled by its root mean square.

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        mh = m / (1 - b1^t);  vh = v / (1 - b2^t)
        theta -= a mh / (sqrt(vh) + eps)

    Both averages begin at 0; dividing by 1 - b^t takes that beginning out of them. Epsilon
    stands beside the corrected root. Keras's Adam puts it beside the uncorrected one, which
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

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
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

    def corrected(self, state):
        """Return one array's averages after update t, corrected for their start: (mh, vh)."""
        m_hat = state["m"] / (1.0 - self.beta_1**self.t)
        v_hat = state["v"] / (1.0 - self.beta_2**self.t)
        return m_hat, v_hat


class _DecayingAdam(Adam):
    """Adam with a weight decay that some arrays, such as biases, are excluded from."""

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.01,
        decay_mask=None,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon)
        self.weight_decay = check_number("weight_decay", weight_decay, 0.0)
        self.decay_mask = None if decay_mask is None else [bool(flag) for flag in decay_mask]

    def step(self, parameters, gradients):
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
