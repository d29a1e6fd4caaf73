"""One trunk pass worth of rows, and what each task wants to know about some of them.

Legend: B rows, L padded length, T real tokens, R the rows a task has targets for or the replies, M addressed tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weft.core.layout import Layout


@dataclass(frozen=True, slots=True)
class Target:
    """What one task asks of a batch.

    Attributes:
        rows_R: batch rows that carry a target of this task, int64, in the order of ``values``. Two targets may
            name the same row: texts are deduplicated within a batch, so equal texts cost one trunk pass.
        values: the task's own tensors (labels, flat token positions in the layout's flat order, ...).
        weight: this target's share of the step's denominator, in the task's unit (rows, tokens, ...).
            Known on the host before any forward pass.
        num_examples: examples (not tokens) behind this target.
    """

    rows_R: Tensor
    values: Mapping[str, Tensor]
    weight: float
    num_examples: int

    def to(self, device: torch.device) -> Target:
        """Return the same target on ``device``; copies are asynchronous where the memory allows."""
        values = {name: value.to(device, non_blocking=True) for name, value in self.values.items()}
        return replace(self, rows_R=self.rows_R.to(device, non_blocking=True), values=values)


@dataclass(frozen=True, slots=True)
class Replies:
    """What the decoder of an encoder-decoder reads: each reply has the row that it replies to behind it.

    Attributes:
        tokens_RL: token ids, int64, padded on the right.
        layout: where the real ones are; padded.
        rows: for each reply its row of the batch; a row may have several.
    """

    tokens_RL: Tensor
    layout: Layout
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> Replies:
        """Return the same replies on ``device``; copies are asynchronous where the memory allows."""
        tokens_RL = self.tokens_RL.to(device, non_blocking=True)
        return replace(self, tokens_RL=tokens_RL, layout=self.layout.to(device))


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens for one trunk pass that serves every task in ``targets``.

    Attributes:
        tokens: token ids, int64: shape (B, L) when padded, (T,) when packed.
        segments: token type ids of the same shape, or None for trunks without them.
        layout: where the real tokens are.
        targets: per task name.
        ids: one identifier per row (``file:line``) for messages and diagnosis.
        digests: of each row's tokens and segments as ``Encoded`` has them; empty where nobody made them.
        reads_M: flat positions whose states anybody will ask for, ascending and distinct, int64; None for all. A trunk
            may compute more than these.
        replies: what a decoder reads behind these rows; None where no target is a reply. Targets of tasks whose examples
            have replies address the tokens of these, in their flat order.
    """

    tokens: Tensor
    segments: Tensor | None
    layout: Layout
    targets: Mapping[str, Target]
    ids: tuple[str, ...]
    digests: tuple[bytes, ...] = ()
    reads_M: Tensor | None = None
    replies: Replies | None = None

    @property
    def num_tokens(self) -> int:
        """Real tokens of rows and replies."""
        return self.layout.num_tokens + (0 if self.replies is None else self.replies.layout.num_tokens)

    @property
    def num_padded_tokens(self) -> int:
        """Tokens of rows and replies, padding included."""
        return self.tokens.numel() + (0 if self.replies is None else self.replies.tokens_RL.numel())

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on ``device``; copies are asynchronous where the memory allows."""
        if self.tokens.device == device:
            return self
        return replace(
            self,
            tokens=self.tokens.to(device, non_blocking=True),
            segments=None if self.segments is None else self.segments.to(device, non_blocking=True),
            layout=self.layout.to(device),
            reads_M=None if self.reads_M is None else self.reads_M.to(device, non_blocking=True),
            targets={name: target.to(device) for name, target in self.targets.items()},
            replies=None if self.replies is None else self.replies.to(device),
        )
