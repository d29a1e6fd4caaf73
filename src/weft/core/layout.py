"""Where the real tokens of a batch lie, so that no head or objective ever assumes padding.

Legend: B rows, L padded length, T real tokens of all rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from weft.core.tensors import int64


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of one batch of rows, padded (``width`` set) or packed (``width`` is None).

    Flat order means: the real tokens of row 0, then of row 1, and so on. Whatever a target addresses,
    it addresses in flat order, which is the same for both layouts.

    Attributes:
        lengths_B: real tokens of each row, int64.
        starts_B: flat position of each row's first token, int64.
        index_T: for padded batches, where each real token lies in the flattened ``B * L`` grid; None when packed.
        num_tokens: T.
        max_length: longest row, in tokens.
        width: L of a padded batch; None when packed.
    """

    lengths_B: Tensor
    starts_B: Tensor
    index_T: Tensor | None
    num_tokens: int
    max_length: int
    width: int | None

    @staticmethod
    def padded(lengths: Sequence[int], width: int | None = None) -> Layout:
        """Return the layout of rows padded on the right to ``width`` (default: the longest row)."""
        return _layout(lengths, width=max(lengths) if width is None else width)

    @staticmethod
    def packed(lengths: Sequence[int]) -> Layout:
        """Return the layout of rows laid end to end without padding."""
        return _layout(lengths, width=None)

    @property
    def num_rows(self) -> int:
        """B."""
        return self.lengths_B.shape[0]

    @property
    def is_packed(self) -> bool:
        """Whether rows lie end to end without padding."""
        return self.width is None

    def mask_BL(self) -> Tensor:
        """Return True where a padded grid holds a real token, shape (B, L) of a padded or (B, max_length) grid."""
        width = self.max_length if self.width is None else self.width
        return torch.arange(width, device=self.lengths_B.device) < self.lengths_B[:, None]

    def row_T(self) -> Tensor:
        """Return the row of each real token in flat order, int64, shape (T,)."""
        rows_B = torch.arange(self.num_rows, device=self.lengths_B.device)
        return rows_B.repeat_interleave(self.lengths_B, output_size=self.num_tokens)

    def position_T(self) -> Tensor:
        """Return each real token's position within its row (restarting at 0), int64, shape (T,)."""
        flat_T = torch.arange(self.num_tokens, device=self.lengths_B.device)
        return flat_T - self.starts_B[self.row_T()]

    def cumulative(self, extra: int = 0) -> Tensor:
        """Return the flat position of each row's first token and the end, int32, shape (B + 1,), on the layout's device.

        Args:
            extra: tokens of one more row behind the last; none where it is 0.
        """
        ends = [self.num_tokens] + ([self.num_tokens + extra] if extra else [])
        return torch.cat([self.starts_B, self.starts_B.new_tensor(ends)]).to(torch.int32)

    def to(self, device: torch.device) -> Layout:
        """Return the same layout with its tensors on ``device``."""
        index_T = None if self.index_T is None else self.index_T.to(device, non_blocking=True)
        return replace(
            self,
            lengths_B=self.lengths_B.to(device, non_blocking=True),
            starts_B=self.starts_B.to(device, non_blocking=True),
            index_T=index_T,
        )


def _layout(lengths: Sequence[int], *, width: int | None) -> Layout:
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths: every row needs at least one token, but got {list(lengths)}.")
    longest = max(lengths)
    if width is not None and width < longest:
        raise ValueError(f"width: must hold the longest row of {longest} tokens, but is {width}.")
    starts = [0, *accumulate(lengths)]
    index_T = None
    if width is not None:
        skipped = [row * width - start for row, start in enumerate(starts[:-1])]  # padding of all rows before
        index_T = torch.from_numpy(np.arange(starts[-1]) + np.repeat(skipped, lengths))
    return Layout(
        lengths_B=int64(lengths),
        starts_B=int64(starts[:-1]),
        index_T=index_T,
        num_tokens=starts[-1],
        max_length=longest,
        width=width,
    )
