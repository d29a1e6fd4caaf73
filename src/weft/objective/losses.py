"""Leaf losses: each a sum in fp32 over its units, whatever precision the outputs came in.

Legend: R rows, M tokens, N rows or tokens, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.core.loss import Loss

_LEAST = 1e-12  # of 1 - p: its power has a gradient where p is 1, too


def cross_entropy(
    logits_NC: Tensor,
    labels_N: Tensor,
    weights_N: Tensor | None = None,
    *,
    gamma: float = 0.0,
    smoothing: float = 0.0,
) -> Loss:
    """Return the summed negative log-likelihood of ``labels_N`` in nats; the weight is N.

    Args:
        logits_NC: any float dtype; N may be 0.
        labels_N: class numbers, int64.
        weights_N: what each counts; None for 1.
        gamma: of the focal loss, ``(1 - p) ** gamma`` times as much (Lin et al. 2017, arXiv:1708.02002, equation 4);
            not together with ``smoothing``.
        smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Example:
        >>> import torch
        >>> loss = cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
        >>> loss.weight, round(loss.total.item() / loss.weight, 4)
        (3.0, 0.6931)
    """
    num = float(labels_N.shape[0])
    if weights_N is None and not gamma:  # one kernel
        total = F.cross_entropy(logits_NC.float(), labels_N, reduction="sum", label_smoothing=smoothing)
        return Loss(total, weight=num)
    losses_N = F.cross_entropy(logits_NC.float(), labels_N, reduction="none", label_smoothing=smoothing)
    return Loss(_weighed(losses_N, weights_N, gamma).sum(), weight=num)


def binary_cross_entropy(
    logits_RC: Tensor,
    labels_RC: Tensor,
    weights_RC: Tensor | None = None,
    *,
    gamma: float = 0.0,
    smoothing: float = 0.0,
) -> Loss:
    """Return the sum over rows of the mean over classes of independent yes/no losses; the weight is R.

    The mean over classes keeps a row's share of the step's denominator the same for any number of classes.

    Args:
        logits_RC: any float dtype.
        labels_RC: 1.0 where a row has the class, else 0.0.
        weights_RC: what each yes or no counts; None for 1.
        gamma: of the focal loss, as for ``cross_entropy``.
        smoothing: yes is ``1 - smoothing / 2``, no is ``smoothing / 2``.
    """
    targets_RC = labels_RC.float() * (1 - smoothing) + smoothing / 2 if smoothing else labels_RC.float()
    losses_RC = F.binary_cross_entropy_with_logits(logits_RC.float(), targets_RC, reduction="none")
    return Loss(_weighed(losses_RC, weights_RC, gamma).mean(1).sum(), weight=float(labels_RC.shape[0]))


def _weighed(losses: Tensor, weights: Tensor | None, gamma: float) -> Tensor:
    """Return each loss times its weight and its focal factor; a loss is ``-log p``, so ``p`` needs no second softmax."""
    if gamma:
        losses = losses * (-torch.expm1(-losses)).clamp_min(_LEAST) ** gamma
    return losses if weights is None else losses * weights


def continuation_loss(logits_RK: Tensor, levels_RK: Tensor) -> Loss:
    """Return the summed negative log-likelihood of ordered labels under continuation ratios; the weight is R.

    Logit k is that of ``P(label > k | label >= k)``; it has a loss in the rows that have come as far.

    Args:
        logits_RK: any float dtype, one for each label but the last.
        levels_RK: 1.0 where the label is higher than k, else 0.0.
    """
    reached_RK = F.pad(levels_RK[:, :-1], (1, 0), value=1.0)
    losses_RK = F.binary_cross_entropy_with_logits(logits_RK.float(), levels_RK.float(), reduction="none")
    return Loss((losses_RK * reached_RK).sum(), weight=float(levels_RK.shape[0]))


def squared_error(values_R: Tensor, golds_R: Tensor, *, scale: float = 1.0) -> Loss:
    """Return the summed squared error in units of ``scale``; the weight is R."""
    total = ((values_R.float() - golds_R.float()) / scale).square().sum()
    return Loss(total, weight=float(golds_R.shape[0]))


def span_cross_entropy(logits_M2: Tensor, rows_M: Tensor, labels_R2: Tensor) -> Loss:
    """Return the sum over rows of the mean of two losses: of a span's first token and of its last; the weight is R.

    Each of the two is a softmax over the tokens of the row alone, so padding never takes part.

    Args:
        logits_M2: of every token of every row to be its row's first and last, any float dtype.
        rows_M: row of each token, 0 to R - 1, int64.
        labels_R2: the right ones, as places among the M tokens, int64.

    Example:
        >>> import torch
        >>> rows = torch.tensor([0, 0, 1, 1, 1, 1])
        >>> loss = span_cross_entropy(torch.zeros(6, 2), rows, torch.tensor([[0, 1], [2, 2]]))
        >>> loss.weight, round(loss.total.item(), 4)  # log 2 + log 4
        (2.0, 2.0794)
    """
    logits_M2 = logits_M2.float()
    num_rows = labels_R2.shape[0]
    most_R2 = logits_M2.new_full((num_rows, 2), -torch.inf)
    most_R2 = most_R2.scatter_reduce(0, rows_M[:, None].expand(-1, 2), logits_M2.detach(), "amax")
    logits_M2 = logits_M2 - most_R2.index_select(0, rows_M)  # exponents stay in range
    sums_R2 = logits_M2.new_zeros(num_rows, 2).index_add(0, rows_M, logits_M2.exp())
    total = (sums_R2.log() - logits_M2.gather(0, labels_R2)).sum() / 2
    return Loss(total, weight=float(num_rows))
