"""A linear module with low-rank updates beside its weight, one a named adapter, added up.

Legend: I input width, O output width, R rank.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.core import linear
from weft.core.view import SiteKind
from weft.strategy.low_rank import is_uniform, low_rank


class Factors(nn.ParameterDict):
    """Parameters by adapter name. Unlike its parent it takes names that modules use themselves (``train``)."""

    def __setitem__(self, key: str, value: nn.Parameter) -> None:
        self._keys[key] = None
        self._parameters[key] = value

    def __getitem__(self, key: str) -> nn.Parameter:
        return cast(nn.Parameter, self._parameters[key])


class LoraSite(nn.Module):
    """Mixin before a linear class: the base's output plus ``scale * B A x`` for every adapter at this site.

    The base's parameters keep their names, objects (so ties stay ties) and ``isinstance`` answers.
    """

    lora_A: Factors
    lora_B: Factors
    lora_options: dict[str, dict[str, Any]]
    is_plain: ClassVar[bool]  # whether the base computes nothing but its product

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I)."""
        names = tuple(self.lora_options)
        if self._is_fused(inputs, names):
            A_RI, B_OR, scale = self._stacked(names)
            return low_rank(self, inputs, A_RI, B_OR, scale=scale)
        outputs = super().forward(inputs)
        for name in names:
            outputs = outputs + self._update(inputs, name)
        return outputs

    def scale(self, name: str) -> float:
        """Return the factor of one adapter's update: alpha / rank."""
        options = self.lora_options[name]
        return options["alpha"] / options["rank"]

    def _is_fused(self, inputs: Tensor, names: tuple[str, ...]) -> bool:
        """Return whether the updates of ``names`` and the base's product may be one function."""
        if not names or not self.is_plain:
            return False
        if self.training and any(self.lora_options[name]["dropout"] for name in names):
            return False
        factors = (factors[name] for factors in (self.lora_A, self.lora_B) for name in names)
        return is_uniform(inputs, cast(Tensor, self.weight), *factors)

    def _stacked(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor, float]:
        """Return A (R, I), B (O, R) and the scale of all ``names`` together."""
        if len(names) == 1:
            return self.lora_A[names[0]], self.lora_B[names[0]], self.scale(names[0])
        A_RI = torch.cat([self.lora_A[name] for name in names])
        return A_RI, torch.cat([self.lora_B[name] * self.scale(name) for name in names], 1), 1.0

    def _update(self, inputs: Tensor, name: str) -> Tensor:
        dropout = self.lora_options[name]["dropout"]
        hidden = F.dropout(inputs, dropout, self.training) if dropout else inputs
        # The scale goes onto the narrow middle: R values a token instead of O.
        narrow = F.linear(hidden, self.lora_A[name]) * self.scale(name)
        return F.linear(narrow, self.lora_B[name])

    def add(self, name: str, options: dict[str, Any], A_RI: Tensor, B_OR: Tensor) -> None:
        """Add one adapter with copies of its factors; frozen until a table says otherwise."""
        weight = cast(Tensor, self.weight)
        for factors, tensor in ((self.lora_A, A_RI), (self.lora_B, B_OR)):
            value = tensor.detach().to(weight.device, torch.float32, copy=True)
            factors[name] = nn.Parameter(value, requires_grad=False)
        self.lora_options[name] = options


def lora_site(module: nn.Module) -> LoraSite:
    """Return ``module`` as one that takes adapters: itself if it is, else its parameters in an adapting class."""
    if isinstance(module, LoraSite):
        return module
    adapted = cast(LoraSite, object.__new__(_lora_class(type(module))))
    vars(adapted).update(vars(module))
    vars(adapted)["_modules"] = dict(vars(module)["_modules"])  # the old module stays as it was
    adapted.lora_A, adapted.lora_B = Factors(), Factors()
    adapted.lora_options = {}
    return adapted


@cache
def _lora_class(base: type[nn.Module]) -> type[nn.Module]:
    """Return ``base`` with the mixin in front, as FSDP2 does: GPT-2's Conv1D needs no import of transformers."""
    own = {"__doc__": LoraSite.__doc__, "is_plain": linear.is_plain(base)}
    return type(f"Lora{base.__name__}", (LoraSite, base), own)


def widths(weight_shape: tuple[int, ...], kind: SiteKind) -> tuple[int, int]:
    """Return (I, O) of a weight of ``kind``: (O, I) as nn.Linear stores it, (I, O) as GPT-2's Conv1D does."""
    first, second = weight_shape
    return (first, second) if kind is SiteKind.CONV1D else (second, first)


def initial(shape: tuple[int, int], *, seed: int) -> Tensor:
    """Return a fresh A of ``shape`` (R, I) in fp32: kaiming uniform with a = sqrt(5), as in the authors' code.

    Source: arXiv:2106.09685, section 4.1, has A random and B zero; github.com/microsoft/LoRA draws it so.
    """
    generator = torch.Generator().manual_seed(seed)
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def update(A_RI: Tensor, B_OR: Tensor, *, scale: float, kind: SiteKind) -> Tensor:
    """Return ``scale * B A`` in fp32, in the orientation in which ``kind`` stores its weight."""
    delta_OI = scale * (B_OR.float() @ A_RI.float())
    return delta_OI.T if kind is SiteKind.CONV1D else delta_OI
