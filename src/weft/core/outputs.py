"""What heads return: a tensor, or, where that would be too large, what it is made of.

Legend: M addressed tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Projection:
    """Logits over a vocabulary that nobody has computed yet: M x V numbers are often more than all activations.

    Attributes:
        states_MD: the states that are projected.
        output: the output embedding, maps (M, D) to (M, V); its adapters are part of it.
    """

    states_MD: Tensor
    output: nn.Module

    def logits_MV(self) -> Tensor:
        """Return all logits at once, for few tokens."""
        return self.output(self.states_MD)


Outputs = Tensor | Projection
"""What the head of some task returns, one row for each unit that the target addresses; its task knows which."""
