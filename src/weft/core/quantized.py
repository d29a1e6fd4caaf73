"""Frozen weights in 8 or 4 bits, made whole again for each product: a base for adapters that takes less memory.

Legend: O output width, I input width, N number of values, B blocks of values, G groups of blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.core import linear
from weft.recipe.spec import Quantize

BLOCK = 64
"""Values that share a scale under nf4."""
GROUP = 256
"""Scales that are stored in 8 bits together (double quantisation)."""
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
)
"""The quantiles of a normal distribution that QLoRA stores, arXiv:2305.14314, appendix E."""


class Format(Protocol):
    """How a weight is stored: as named tensors, and back."""

    def stored(self, weight_OI: Tensor, /) -> dict[str, Tensor]:
        """Return what is kept of a weight."""
        ...

    def weight_OI(self, kept: Mapping[str, Tensor], shape: tuple[int, int], /) -> Tensor:
        """Return the weight that ``kept`` stands for, fp32."""
        ...


class Int8:
    """A whole number in [-127, 127] for each value and a scale for each row; off by at most half a scale."""

    def stored(self, weight_OI: Tensor, /) -> dict[str, Tensor]:
        """Return codes (O, I) and scales (O, 1)."""
        scales_O1 = weight_OI.abs().amax(1, keepdim=True) / 127
        codes_OI = (weight_OI / scales_O1.clamp_min(torch.finfo(torch.float32).tiny)).round().to(torch.int8)
        return {"codes": codes_OI, "scales": scales_O1}

    def weight_OI(self, kept: Mapping[str, Tensor], shape: tuple[int, int], /) -> Tensor:  # noqa: ARG002
        """Return codes times scales."""
        return kept["codes"] * kept["scales"]


class Nf4:
    """One of 16 quantiles for each value, the largest magnitude for each block, itself in 8 bits.

    Source: arXiv:2305.14314, section 3; scales lie on a line from the smallest to the largest of their group.
    """

    def stored(self, weight_OI: Tensor, /) -> dict[str, Tensor]:
        """Return codes two in a byte, 8-bit scales (G, 256), and the line of each group (G, 2)."""
        blocks = F.pad(weight_OI.flatten(), (0, -weight_OI.numel() % BLOCK)).view(-1, BLOCK)
        largest_B = blocks.abs().amax(1)
        # Padding repeats the last scale, so that it moves neither end of the line.
        extra = -len(largest_B) % GROUP
        groups = torch.cat([largest_B, largest_B[-1:].expand(extra)]).view(-1, GROUP)
        low_G1, high_G1 = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        step_G1 = (high_G1 - low_G1) / 255
        scales = ((groups - low_G1) / step_G1.clamp_min(torch.finfo(torch.float32).tiny)).round()
        kept = {"scales": scales.to(torch.uint8), "lines": torch.cat([low_G1, step_G1], 1)}
        whole_B1 = _scales_B(kept, len(largest_B))[:, None].clamp_min(torch.finfo(torch.float32).tiny)
        values = torch.tensor(NF4, device=weight_OI.device)
        codes = torch.bucketize(blocks / whole_B1, (values[1:] + values[:-1]) / 2).to(torch.uint8).view(-1, 2)
        return {"codes": codes[:, 0] * 16 + codes[:, 1], **kept}

    def weight_OI(self, kept: Mapping[str, Tensor], shape: tuple[int, int], /) -> Tensor:
        """Return quantiles times scales."""
        codes = torch.stack([kept["codes"] // 16, kept["codes"] % 16], 1).view(-1, BLOCK)
        values = torch.tensor(NF4, device=codes.device)
        blocks = values[codes.int()] * _scales_B(kept, len(codes))[:, None]
        return blocks.flatten()[: shape[0] * shape[1]].view(shape)


def _scales_B(kept: Mapping[str, Tensor], count: int) -> Tensor:
    low_G1, step_G1 = kept["lines"].split(1, 1)
    return (low_G1 + kept["scales"] * step_G1).flatten()[:count]


_FORMATS: Mapping[Quantize, Format] = {Quantize.INT8: Int8(), Quantize.NF4: Nf4()}


class Stored:
    """A weight in few bits that multiplies as ``linear.Packed`` does.

    Args:
        how: the format.
        kept: what is kept of it; looked at anew each time, so that it may be moved.
        shape: of the weight, (O, I).
    """

    def __init__(self, how: Quantize, kept: Mapping[str, Tensor], shape: tuple[int, int]) -> None:
        self.how = how
        self._kept = kept
        self._shape = shape

    def weight_OI(self) -> Tensor:
        """Return the weight, fp32: what the product is with, exactly."""
        return _FORMATS[self.how].weight_OI(self._kept, self._shape)

    def forward(self, inputs: Tensor, bias: Tensor | None, /) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I); the weight is made anew in the backward pass, not kept."""
        if torch.is_grad_enabled() and (inputs.requires_grad or (bias is not None and bias.requires_grad)):
            return cast(Tensor, linear.FrozenProduct.apply(inputs, bias, self))
        return self.product(inputs, bias)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """Return outputs without a graph."""
        return F.linear(inputs, self.weight_OI().to(inputs.dtype), bias)

    def backward(self, gradients: Tensor, /) -> Tensor:
        """Return the gradient (..., I) of the inputs for ``gradients`` (..., O) of the outputs."""
        return gradients @ self.weight_OI().to(gradients.dtype)


class QuantizedModule(nn.Module):
    """In front of a linear class whose weight is in few bits. Its parameter ``weight`` has a shape and no values."""

    is_quantized: ClassVar[bool] = True

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I)."""
        return linear.forward(self, inputs)


def quantized(module: nn.Module, how: Quantize) -> nn.Module:
    """Return a plain linear ``module`` with its weight in few bits, on its device; the module itself stays as it was.

    What looks at the parameter all the same finds that nothing in it is a number.
    """
    weight, bias = linear.values(module)
    made = object.__new__(_class_of(type(module)))
    vars(made).update(vars(module))
    vars(made)["_parameters"] = {**vars(module)["_parameters"], "weight": _hollow(weight)}
    if not weight.is_meta:
        is_turned = linear.is_transposed(type(module))
        weight_OI = (weight.t() if is_turned else weight).detach().float()
        kept: dict[str, Tensor] = _FORMATS[how].stored(weight_OI)
        vars(made)["_buffers"] = kept
        vars(made)["_non_persistent_buffers_set"] = set(kept)
        rows, columns = weight_OI.shape
        vars(made)["packed"] = Stored(how, kept, (rows, columns))
    assert bias is None or bias is linear.values(made)[1]
    return made


def is_quantized(module: nn.Module) -> bool:
    """Return whether the weight of ``module`` is in few bits."""
    return bool(getattr(type(module), "is_quantized", False))


def _hollow(weight: Tensor) -> nn.Parameter:
    hollow = torch.full((), torch.nan, device=weight.device).expand(weight.shape)
    return nn.Parameter(hollow, requires_grad=False)


@cache
def _class_of(base: type[nn.Module]) -> type[Any]:
    return type(f"Quantized{base.__name__}", (QuantizedModule, base), {"__doc__": QuantizedModule.__doc__})
