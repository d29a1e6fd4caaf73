"""Temperature scaling: one number, fitted to dev rows, by which logits are divided so that probabilities come true.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, section 4.2.

Legend: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from weft.core.example import Answer

Floats = NDArray[np.float64]

MOST = 10.0
"""A temperature lies between one over this and this."""
_STEPS = 18  # of bisection: to a hundredth of a percent
_LEAST = 1e-38  # probabilities of fp32 that are smaller are taken for this
_LEAST_ODDS = 1e-7  # likewise for yes and no, where 1 - p is no better than this


def fit_choice(probabilities_NC: Floats, golds_N: NDArray[np.int64]) -> float:
    """Return the temperature under which the right classes of rows with one label each are likeliest.

    ``log T`` is held near 0 by a standard normal prior: it weighs as much as one row does, so that a handful of rows that
    are all answered right does not make the model certain.

    Args:
        probabilities_NC: answered at temperature 1; each row sums to 1, with NaN for classes that it does not have.
        golds_N: number of the right class.
    """
    logits_NC = _logits(probabilities_NC)
    right = float(logits_NC[np.arange(len(golds_N)), golds_N].sum())
    finite_NC = np.where(np.isfinite(logits_NC), logits_NC, 0.0)

    def slope(beta: float) -> float:
        return right - float((softmax(beta * logits_NC) * finite_NC).sum())

    return _root(slope)


def fit_yes(probabilities_NC: Floats, golds_NC: Floats) -> float:
    """Return the temperature under which independent yes and no are likeliest, averaged over classes; as ``fit_choice``.

    Args:
        probabilities_NC: of yes, answered at temperature 1.
        golds_NC: 1.0 for yes, else 0.0.
    """
    logits_NC = _odds(probabilities_NC)

    def slope(beta: float) -> float:
        return float(((golds_NC - _sigmoid(beta * logits_NC)) * logits_NC).mean(1).sum())

    return _root(slope)


def fit_order(probabilities_NC: Floats, golds_N: NDArray[np.int64]) -> float:
    """Return the temperature of ``tempered_order`` under which the right classes are likeliest; as ``fit_choice``.

    The likelihood is that of a proportional odds model, concave in ``1 / T`` (Pratt 1981, JASA 76, 103-106).

    Args:
        probabilities_NC: answered at temperature 1, of classes from the lowest to the highest.
        golds_N: number of the right class.
    """
    edge_N1 = np.full((len(golds_N), 1), np.inf)
    odds_NK = np.concatenate([edge_N1, _odds(_above(probabilities_NC)), -edge_N1], axis=1)
    rows_N = np.arange(len(golds_N))
    # The right class lies between two thresholds, whose log odds of being passed are these.
    upper_N, lower_N = odds_NK[rows_N, golds_N], odds_NK[rows_N, golds_N + 1]
    is_first_N, is_last_N = np.isinf(upper_N), np.isinf(lower_N)
    upper_N, lower_N = np.where(is_first_N, 0.0, upper_N), np.where(is_last_N, 0.0, lower_N)
    width_N = np.where(is_first_N | is_last_N, np.inf, np.maximum(upper_N - lower_N, _LEAST_ODDS))

    def slope(beta: float) -> float:
        # Of log(s(x) - s(y)) = log s(x) + log s(-y) + log(1 - exp(y - x)), with x and y the odds times beta.
        inner_N = np.exp(-beta * width_N)
        between_N = np.where(inner_N > 0, width_N, 0.0) * inner_N / (1 - inner_N)
        return float(
            (upper_N * _sigmoid(-beta * upper_N) - lower_N * _sigmoid(beta * lower_N) + between_N).sum()
        )

    return _root(slope)


def tempered_choice(probabilities_NC: Floats, temperature: float) -> Floats:
    """Return the softmax of the same logits divided by ``temperature``, 0 where there was no class (NaN)."""
    return softmax(_logits(probabilities_NC) / temperature)


def tempered_yes(probabilities_NC: Floats, temperature: float) -> Floats:
    """Return the sigmoid of the same logits divided by ``temperature``."""
    return _sigmoid(_odds(probabilities_NC) / temperature)


def tempered_order(probabilities_NC: Floats, temperature: float) -> Floats:
    """Return probabilities of ordered classes with the log odds of ``P(class > k)`` divided by ``temperature``.

    These still fall with k, so none is negative; and what is above one half stays there, so the class in the middle too.
    """
    edge_N1 = np.ones((len(probabilities_NC), 1))
    above_NK = _sigmoid(_odds(_above(probabilities_NC)) / temperature)
    return np.abs(np.diff(np.concatenate([edge_N1, above_NK, 0 * edge_N1], axis=1), axis=1))


def _above(probabilities_NC: Floats) -> Floats:
    """Return ``P(class > k)`` for all classes but the last."""
    return np.cumsum(probabilities_NC[:, :0:-1], axis=1)[:, ::-1]


def _root(slope: Callable[[float], float]) -> float:
    """Return ``T`` where the log-likelihood and the prior of ``u = log T`` are stationary, by bisection.

    Args:
        slope: derivative of the log-likelihood by ``beta = 1 / T``.
    """
    low, high = -math.log(MOST), math.log(MOST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        beta = math.exp(-middle)
        if (
            beta * slope(beta) + middle > 0
        ):  # of the negative log posterior by u: it rises, so its valley lies below
            high = middle
        else:
            low = middle
    return float(f"{math.exp((low + high) / 2):.4g}")


def softmax(logits_NC: Floats) -> Floats:
    """Return rows that sum to 1."""
    raised_NC = np.exp(logits_NC - logits_NC.max(1, keepdims=True))
    return raised_NC / raised_NC.sum(1, keepdims=True)


def _logits(probabilities_NC: Floats) -> Floats:
    logits_NC = np.log(np.maximum(probabilities_NC, _LEAST))
    return np.where(np.isnan(probabilities_NC), -np.inf, logits_NC)


def _odds(probabilities_NC: Floats) -> Floats:
    inner_NC = np.clip(probabilities_NC, _LEAST_ODDS, 1 - _LEAST_ODDS)
    return np.log(inner_NC) - np.log1p(-inner_NC)


def _sigmoid(logits_NC: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits_NC))


def table_of(answers: Sequence[Answer]) -> Floats:
    """Return the probabilities of answers, one row each, in their order; NaN beyond the last one of a row."""
    rows = [list((answer.probabilities or {}).values()) for answer in answers]
    most = max(map(len, rows), default=0)
    return np.array([row + [math.nan] * (most - len(row)) for row in rows], dtype=np.float64)
