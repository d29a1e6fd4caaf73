"""Leaf losses: each a sum in fp32 over its units, whatever precision the outputs came in.

Legend: R rows, M tokens, N rows or tokens, C classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from weft.core.loss import Loss


def cross_entropy(logits_NC: Tensor, labels_N: Tensor) -> Loss:
    """Return the summed negative log-likelihood of ``labels_N`` in nats; the weight is N.

    Args:
        logits_NC: any float dtype; N may be 0.
        labels_N: class numbers, int64.

    Example:
        >>> import torch
        >>> loss = cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
        >>> loss.weight, round(loss.total.item() / loss.weight, 4)
        (3.0, 0.6931)
    """
    total = F.cross_entropy(logits_NC.float(), labels_N, reduction="sum")
    return Loss(total, weight=float(labels_N.shape[0]))


def binary_cross_entropy(logits_RC: Tensor, labels_RC: Tensor) -> Loss:
    """Return the sum over rows of the mean over classes of independent yes/no losses; the weight is R.

    The mean over classes keeps a row's share of the step's denominator the same for any number of classes.

    Args:
        logits_RC: any float dtype.
        labels_RC: 1.0 where a row has the class, else 0.0.
    """
    losses_RC = F.binary_cross_entropy_with_logits(logits_RC.float(), labels_RC.float(), reduction="none")
    return Loss(losses_RC.mean(1).sum(), weight=float(labels_RC.shape[0]))


def squared_error(values_R: Tensor, golds_R: Tensor, *, scale: float = 1.0) -> Loss:
    """Return the summed squared error in units of ``scale``; the weight is R."""
    total = ((values_R.float() - golds_R.float()) / scale).square().sum()
    return Loss(total, weight=float(golds_R.shape[0]))
