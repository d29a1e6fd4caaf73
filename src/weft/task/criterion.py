"""How a loss over classes is summed: classes of unequal size, rows of unequal difficulty, smoothed targets.

Legend: N rows or words, R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from weft.core.batch import Target
from weft.core.loss import Loss
from weft.core.tensors import float32
from weft.objective.losses import binary_cross_entropy, cross_entropy
from weft.recipe.spec import TaskSpec

MUCH_LARGER = 10
"""A class with so many times the rows of another is worth a warning."""


class CriterionSpec(TaskSpec):
    """What a recipe says of a loss over classes."""

    balance: Literal["none", "weights", "effective"] = "none"
    """What makes small classes count more: weights (inverse frequency) or effective (number of samples, arXiv:1901.05555)."""
    beta: float = Field(0.999, ge=0, lt=1)
    """Only for balance: effective: at 0 all classes count the same, near 1 by inverse frequency."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """cross_entropy, or focal: what is answered well already counts less (arXiv:1708.02002)."""
    gamma: float = Field(2.0, gt=0, le=10)
    """Only for loss: focal: how much less."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Only for loss: cross_entropy: share of the target that is spread over all classes (arXiv:1512.00567)."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        given = self.model_fields_set
        if "beta" in given and self.balance != "effective":
            raise ValueError(f"beta: needs balance: effective, but balance is {self.balance}")
        if "gamma" in given and self.loss != "focal":
            raise ValueError(f"gamma: needs loss: focal, but loss is {self.loss}")
        if self.smoothing and self.loss != "cross_entropy":
            raise ValueError(f"smoothing: needs loss: cross_entropy, but loss is {self.loss}")
        return self


@dataclass(frozen=True, slots=True)
class Criterion:
    """A loss over classes.

    Attributes:
        weights: what a row (or word) of each class counts; empty where all count 1. For independent yes and no: what a
            yes counts.
        gamma: of the focal loss; 0 for cross entropy.
        smoothing: share of the target that is spread over all classes.
    """

    weights: tuple[float, ...] = ()
    gamma: float = 0.0
    smoothing: float = 0.0

    @classmethod
    def of(cls, spec: CriterionSpec, weights: tuple[float, ...]) -> Self:
        """Return what ``spec`` asks for, with the ``weights`` that follow from the training rows."""
        return cls(weights, spec.gamma if spec.loss == "focal" else 0.0, spec.smoothing)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the criterion that ``config()`` described."""
        return cls(tuple(config["weights"]), config["gamma"], config["smoothing"])

    def config(self) -> dict[str, Any]:
        """Return all that ``from_config`` needs, as JSON values."""
        return {"weights": list(self.weights), "gamma": self.gamma, "smoothing": self.smoothing}

    def weigh(self, target: Target) -> Target:
        """Return ``target`` with what each of its ``labels`` counts beside them.

        The weight of class numbers (N,) becomes the sum of what they count, so that a step's loss is a weighted mean as
        torch's is; that of yes and no (R, C) stays the rows'.
        """
        labels = target.values.get("labels")
        if labels is None or not self.weights:
            return target
        by_class_C = float32(self.weights)
        if labels.is_floating_point():
            own_RC = torch.where(labels > 0, by_class_C, 1.0)
            return replace(target, values={**target.values, "weights": own_RC})
        own_N = by_class_C[labels]
        return replace(target, values={**target.values, "weights": own_N}, weight=float(own_N.double().sum()))

    def loss(self, outputs: Tensor, target: Target) -> Loss:
        """Return the summed loss of ``outputs`` for the ``labels`` of ``target``: class numbers, or yes and no."""
        labels = target.values["labels"]
        leaf = binary_cross_entropy if labels.is_floating_point() else cross_entropy
        weights = target.values.get("weights")
        loss = leaf(outputs, labels, weights, gamma=self.gamma, smoothing=self.smoothing)
        return replace(loss, weight=target.weight)


PLAIN = Criterion()
"""Cross entropy, all classes alike."""


def class_weights(counts: Sequence[int], spec: CriterionSpec) -> tuple[float, ...]:
    """Return what a row of each class counts, empty where all count the same; a class without rows counts 1.

    ``weights`` is scikit-learn's "balanced", ``rows / (classes * rows of the class)``. ``effective`` is inverse to the
    effective number of samples, ``(1 - beta ** rows) / (1 - beta)``, scaled to sum to the number of classes (Cui et
    al. 2019, arXiv:1901.05555, equation 2 and section 4.1).

    Example:
        >>> class_weights([30, 10], CriterionSpec(kind="x", train=("y.csv",), balance="weights"))
        (0.6666666666666666, 2.0)
    """
    if spec.balance not in ("weights", "effective"):
        return ()
    sizes = [_size(count, spec) for count in counts]
    present = [size for size in sizes if size]
    scale = len(present) / sum(1 / size for size in present)
    if spec.balance == "weights":
        scale = sum(present) / len(present)
    return tuple(scale / size if size else 1.0 for size in sizes)


def yes_weights(counts: Sequence[int], num_rows: int, spec: CriterionSpec) -> tuple[float, ...]:
    """Return what a yes counts beside a no, class by class: the size of the noes over that of the yeses.

    Sizes are rows, as torch suggests for ``pos_weight``, or effective numbers of them. A class that no row has, or
    every row, counts 1.
    """
    if spec.balance not in ("weights", "effective"):
        return ()
    return tuple(
        _size(num_rows - count, spec) / _size(count, spec) if 0 < count < num_rows else 1.0
        for count in counts
    )


def _size(count: int, spec: CriterionSpec) -> float:
    """Return the size of a class with ``count`` rows."""
    if spec.balance == "weights":
        return float(count)
    return (1 - spec.beta**count) / (1 - spec.beta)


def imbalance(task: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return a warning where one class has many times the training rows of another."""
    present = {label: count for label, count in counts.items() if count}
    if len(present) < 2:
        return ()
    least, most = min(present, key=present.__getitem__), max(present, key=present.__getitem__)
    if present[most] < MUCH_LARGER * present[least]:
        return ()
    return (
        f"{task}: {most} has {present[most]:,} training rows and {least} {present[least]:,}: accuracy hardly sees small "
        f"classes, macro_f1 does; 'balance' lets them count more.",
    )
