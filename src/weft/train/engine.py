"""One optimizer step over several micro-batches of several tasks. Nothing in it waits for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.core.batch import Batch
from weft.core.loss import Loss
from weft.core.network import Network
from weft.core.seeds import fold
from weft.objective.base import Objective
from weft.report.records import StepReport
from weft.train.optimizer import FusedAdamW


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did; tensors stay on the device until somebody reads them.

    Attributes:
        step: its number within the stage, from 0.
        lr: largest learning rate of all groups.
        totals: summed loss by task, scalar fp32, not finite where the loss was not.
        weights: the denominator by task.
        grad_norm: of all gradients together before clipping, scalar fp32.
        skipped: scalar, 1.0 if the update was not applied because loss or gradient were not finite.
        examples: targets by task.
        tokens: real tokens through the trunk.
        padded_tokens: the same with padding.
        ids: ``file:line`` of the rows.
    """

    step: int
    lr: float
    totals: Mapping[str, Tensor]
    weights: Mapping[str, float]
    grad_norm: Tensor
    skipped: Tensor
    examples: Mapping[str, int]
    tokens: int
    padded_tokens: int
    ids: tuple[str, ...]

    def report(self, *, stage: str, epoch: float, seconds: float) -> StepReport:
        """Return the step's record; waits for the device."""
        return summary([self], stage=stage, epoch=epoch, seconds=seconds)


def summary(results: Sequence[StepResult], *, stage: str, epoch: float, seconds: float) -> StepReport:
    """Return one record of successive steps; waits for the device.

    Losses are means over all units of all steps, the gradient norm is the mean over steps; steps that were skipped
    are part of both, so a loss that was not finite shows.

    Args:
        results: at least one.
        stage: the stage's name.
        epoch: where the last step ended.
        seconds: that the steps took together.
    """
    totals: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for result in results:
        totals.update({name: float(total) for name, total in result.totals.items()})
        weights.update(result.weights)
    return StepReport(
        stage=stage,
        step=results[-1].step,
        epoch=epoch,
        lr=results[-1].lr,
        losses={name: totals[name] / weight for name, weight in weights.items() if weight > 0},
        grad_norm=sum(float(result.grad_norm) for result in results) / len(results),
        examples=sum(sum(result.examples.values()) for result in results),
        tokens=sum(result.tokens for result in results),
        padded_tokens=sum(result.padded_tokens for result in results),
        skipped=sum(int(result.skipped) for result in results),
        seconds=seconds,
    )


class Engine:
    """Takes optimizer steps.

    Args:
        network: its parameters are fp32 and require a gradient where they are trained.
        objective: what is minimised.
        optimizer: over the trained parameters.
        weights: how strongly each task's loss counts; a task of weight 0 is measured and trains nothing.
        device: of the network.
        dtype: of the trunk while it computes; the parameters stay fp32.
        clip: largest norm of all gradients together.
        seed: the recipe's seed and the stage's name, from which each step's random numbers (dropout) follow.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        *,
        optimizer: FusedAdamW,
        weights: Mapping[str, float],
        device: torch.device,
        dtype: torch.dtype,
        clip: float,
        seed: tuple[int, str],
    ) -> None:
        self.network = network
        self.objective = objective
        self.optimizer = optimizer
        self.weights = weights
        self.device = device
        self.dtype = dtype
        self.clip = clip
        self.seed = seed
        network.train()

    def step(self, micro_batches: Sequence[Batch], *, step: int, lr_factor: float) -> StepResult:
        """Take one step on the sum over tasks of ``weight * total / denominator``; return what it did.

        The denominator of a task is what its targets of all micro-batches weigh together, known before the first
        forward pass, so the gradient does not depend on how the step was cut.

        Args:
            micro_batches: together one step's rows, on any device.
            step: number of the step within the stage, from 0.
            lr_factor: of the schedule, on every group's peak learning rate.
        """
        self._reseed(step)
        denominators = denominators_of(micro_batches)
        totals = {name: torch.zeros((), device=self.device) for name in denominators}
        objective = torch.zeros((), device=self.device)
        with self.network.computing(self.dtype) as twins:
            for batch in micro_batches:
                losses = self.objective(batch.to(self.device), self.network)
                for name, loss in losses.items():
                    totals[name] += loss.total.detach()
                objective += self._backward(losses, denominators)
                if twins is not None and len(micro_batches) > 1:
                    twins.collect()  # sums of bf16 gradients would lose the small ones
        grad_norm, skipped = self.optimizer.apply(
            twins, objective=objective, clip=self.clip, lr_factor=lr_factor
        )
        return StepResult(
            step=step,
            lr=max(group["lr"] for group in self.optimizer.param_groups),
            totals=totals,
            weights=denominators,
            grad_norm=grad_norm,
            skipped=skipped,
            examples=_examples(micro_batches),
            tokens=sum(batch.num_tokens for batch in micro_batches),
            padded_tokens=sum(batch.num_padded_tokens for batch in micro_batches),
            ids=tuple(row for batch in micro_batches for row in batch.ids),
        )

    def _reseed(self, step: int) -> None:
        seed = fold(self.seed[0], self.seed[1], "step", step)
        torch.default_generator.manual_seed(seed)  # ``torch.manual_seed`` also notes where it was called from
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _backward(self, losses: Mapping[str, Loss], denominators: Mapping[str, float]) -> Tensor:
        """Add the gradient of one micro-batch's share of the step; return that share, a scalar."""
        share = shares_of(losses, denominators, self.weights)
        if share is None:
            return torch.zeros((), device=self.device)
        if share.requires_grad:  # not so where only other tasks' heads are trained
            share.backward()
        return share.detach()


def shares_of(
    losses: Mapping[str, Loss], denominators: Mapping[str, float], weights: Mapping[str, float]
) -> Tensor | None:
    """Return what one micro-batch adds to the objective of its step, a scalar; None where no task of it counts."""
    shares = [
        weights[name] / denominators[name] * loss.total
        for name, loss in losses.items()
        # A task of weight 0 is left out, not multiplied by 0: its head would decay, and 0 times infinity is NaN.
        if weights[name] > 0 and denominators[name] > 0
    ]
    return torch.stack(shares).sum() if shares else None


def denominators_of(micro_batches: Sequence[Batch]) -> dict[str, float]:
    """Return what the targets of each task weigh in all micro-batches of a step together."""
    sums: dict[str, float] = {}
    for batch in micro_batches:
        for name, target in batch.targets.items():
            sums[name] = sums.get(name, 0.0) + target.weight
    return sums


def _examples(micro_batches: Sequence[Batch]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for batch in micro_batches:
        counts.update({name: target.num_examples for name, target in batch.targets.items()})
    return dict(counts)
