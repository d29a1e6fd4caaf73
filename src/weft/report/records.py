"""What happened, as typed and versioned JSON. Every score carries its n and its interval."""

from __future__ import annotations

import math
from enum import StrEnum

from pydantic import Field, JsonValue

from weft.report.details import TaskDetail
from weft.report.record import Record

FORMAT = 1
GIVEN = "given"
"""The split of an evaluation on files that somebody names: no checkpoint was chosen by them."""
_LARGEST_EXPONENT = 700.0  # whose power of e a float holds


class StepReport(Record):
    """One optimizer step (or the mean over the steps since the last log line)."""

    stage: str
    step: int
    epoch: float
    lr: float
    """Largest current learning rate of all groups."""
    losses: dict[str, float]
    """Mean loss of each task, in nats (or squared units) per unit of its weight."""
    grad_norm: float
    examples: int
    tokens: int
    """Real tokens through the trunk, padding not counted."""
    padded_tokens: int
    skipped: int = 0
    """Steps since the last line that were not applied because loss or gradient were not finite."""
    seconds: float


class Score(Record):
    """One metric of one task on one split."""

    metric: str
    value: float
    low: float
    """Lower end of the 95 % bootstrap interval."""
    high: float
    n: int
    """Rows behind the value."""
    baseline: float
    """What majority or mean of the training labels would score on the same rows."""
    higher_is_better: bool = True
    best: float = 1.0
    signature: str = ""
    """What the value depends on besides the texts, as the library that took it says: tokenizer, smoothing, version."""


class TaskReport(Record):
    """All scores of one task on one split; the first is the primary one."""

    task: str
    kind: str
    split: str
    """dev, test, or held-out."""
    scores: tuple[Score, ...] = Field(min_length=1)
    loss: float | None = None
    """Mean loss per unit of its weight."""
    is_chosen_by_loss: bool = False
    """Whether checkpoints are chosen by the loss, for nobody named a metric that could."""
    seconds: float = 0.0
    """That its answers took; a pass that tasks share counts for the one that asked first."""
    fitted: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    """What was fitted to dev rows besides the weights (a threshold, a temperature): scores on dev profit from it."""

    @property
    def perplexity(self) -> float | None:
        """Of a token, where the loss is one of texts; None elsewhere."""
        if self.loss is None or not self.is_chosen_by_loss:
            return None
        return math.exp(self.loss) if self.loss < _LARGEST_EXPONENT else math.inf


class EvalReport(Record):
    """One evaluation of a model on one split of every task."""

    split: str
    tasks: tuple[TaskReport, ...]
    selection: float
    """The one number that early stopping and the best checkpoint go by (decision record on the selection score)."""
    step: int = 0
    epoch: float = 0.0
    stage: str = ""
    seconds: float = 0.0


class BundleReport(EvalReport):
    """An evaluation by itself: of a bundle on data with answers, with what its answers look like."""

    format: int = FORMAT
    weft: str
    name: str
    """Of the run, or of the folder that the bundle lies in."""
    model: str
    details: tuple[TaskDetail, ...] = ()

    @property
    def final(self) -> tuple[EvalReport, ...]:
        """The evaluation, as pages look for it in the report of a run."""
        return (self,)


class SplitReport(Record):
    """One split of one task before training."""

    split: str
    sources: tuple[str, ...]
    read: int
    used: int
    examples: int = 0
    """Examples that the used rows gave, more than rows where long texts are cut into blocks; 0 where nobody counted."""
    dropped: dict[str, int]
    """Dropped rows by reason."""
    labels: dict[str, int]
    tokens_mean: float
    tokens_p95: int
    tokens_max: int
    cut_share: float
    """Share of examples that lost tokens to truncation."""
    unknown_share: float = 0.0
    """Share of tokens that stand for what the model's vocabulary does not have."""
    duplicates: int
    """Rows whose text occurs earlier in the same split."""
    encoding: str = "utf-8"

    @property
    def num_examples(self) -> int:
        """Examples: one a row where nobody counted."""
        return self.examples or self.used


class TaskDataReport(Record):
    """The data of one task before training."""

    task: str
    kind: str
    columns: dict[str, str]
    splits: tuple[SplitReport, ...]
    overlap: dict[str, int]
    """Texts that two splits share, by pair, e.g. ``train/dev``."""
    shared_with: dict[str, int] = Field(default_factory=dict[str, int])
    """Training texts that another task reads too (one trunk pass serves both when they meet in a batch)."""


class DataReport(Record):
    """All tasks' data, warnings included."""

    tasks: tuple[TaskDataReport, ...]
    warnings: tuple[str, ...] = ()


class GroupRow(Record):
    """One line of the condensed parameter table: the rows with the same owner, role, reason and rate."""

    paths: str
    num_tensors: int
    num_values: int
    role: str
    owner: str
    why: str
    lr: float


PARENTS = " + "  # between the names of several parents


class StagePlan(Record):
    """What a stage will do, known before any weights are loaded."""

    name: str
    parent: str
    strategy: str
    carry: dict[str, str]
    tasks: dict[str, float]
    """Share of the draws by task."""
    passes: dict[str, float]
    """How often each task's training rows are seen over the stage; empty when the length is in minutes."""
    table: tuple[GroupRow, ...]
    num_trained: int
    num_values: int
    steps: int | None
    """None when the length is in minutes."""
    examples: int | None
    tokens: int | None
    memory_bytes: int
    activations: str = "keep"
    """What of a pass is kept for its gradient: keep, recompute or offload."""
    seconds: float | None
    """Estimated training time, evaluation not counted."""
    notes: tuple[str, ...] = ()
    """Warnings."""
    ways: tuple[str, ...] = ()
    """What is computed otherwise than a plain loop would: layers that run once a text, rows that must be padded."""
    defaults: tuple[str, ...] = ()
    """Learning rates that nobody named, and where they come from."""


class StageReport(Record):
    """What a stage did."""

    name: str
    parent: str
    plan: StagePlan
    steps: int
    epochs: float
    examples: dict[str, int]
    """Examples drawn by task."""
    tokens: int
    padded_tokens: int
    skipped: int
    seconds: float
    seconds_evaluating: float
    peak_memory_bytes: int
    entry_difference: float | None
    """Largest difference of the probe outputs before and after entering the stage; None for the first."""
    best_step: int
    stopped: str
    """Why it ended: length, patience."""
    curve: tuple[StepReport, ...]
    evaluations: tuple[EvalReport, ...]
    leaving: EvalReport | None = None
    """Dev scores, at its end, of every head that the stage hands on, trained by it or not."""


class RunReport(Record):
    """The whole run."""

    format: int = FORMAT
    weft: str
    name: str
    digest: str
    """SHA-256 of the recipe."""
    seed: int
    model: str
    data: DataReport
    stages: tuple[StageReport, ...]
    final: tuple[EvalReport, ...]
    """Final scores: test where a task has one, dev otherwise (then it is said that dev also chose)."""
    details: tuple[TaskDetail, ...] = ()
    """What the final answers look like, by task."""
    environment: dict[str, str]
    finished: bool
    seconds: float


class Verdict(StrEnum):
    """What a paired interval says of the second run."""

    BETTER = "better"
    WORSE = "worse"
    TIE = "tie"
    """The interval of the difference holds 0."""


class MetricComparison(Record):
    """One metric of two runs on the same rows."""

    metric: str
    a: float
    b: float
    difference: float
    """b - a."""
    low: float
    """Lower end of the paired 95 % bootstrap interval of the difference."""
    high: float
    p: float
    """Two-sided, of the same paired bootstrap."""
    n: int
    best: float = 1.0
    higher_is_better: bool = True
    verdict: Verdict


class ChangedRow(Record):
    """One row that the second run answered better or worse than the first."""

    where: str
    is_better: bool
    gold: str
    a: str
    b: str


class TaskComparison(Record):
    """One task of two runs on the same rows."""

    task: str
    kind: str
    split: str
    metrics: tuple[MetricComparison, ...] = Field(min_length=1)
    rows_better: int
    """Rows that the second run answered nearer to gold."""
    rows_worse: int
    changed: tuple[ChangedRow, ...]
    """Some of them, the largest changes of each direction first."""


class RecipeDifference(Record):
    """One key whose value differs, as JSON text; None where a recipe lacks it."""

    key: str
    a: str | None
    b: str | None


class CompareReport(Record):
    """Two runs side by side."""

    format: int = FORMAT
    a: str
    b: str
    tasks: tuple[TaskComparison, ...] = Field(min_length=1)
    only_a: tuple[str, ...] = ()
    """Tasks that only the first run answered."""
    only_b: tuple[str, ...] = ()
    recipe: tuple[RecipeDifference, ...] = ()
