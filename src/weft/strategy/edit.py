"""A module at a site, edited by any number of methods: each method is a class in front of the module's own.

The classes stand in one order, whatever the order in which the methods came: what changes the weight is nearest to the
module, scales follow, what acts on the output is last. The module's parameters keep their names and stay the same
objects, so that ties stay ties, and ``isinstance`` answers as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from weft.core import linear
from weft.core.routing import Routable


class Factors(nn.ParameterDict):
    """Parameters by adapter name. Unlike its parent it takes names that modules use themselves (``train``)."""

    def __setitem__(self, key: str, value: nn.Parameter) -> None:
        self._keys[key] = None
        self._parameters[key] = value

    def __getitem__(self, key: str) -> nn.Parameter:
        return cast(nn.Parameter, self._parameters[key])


class Edit(Routable):
    """What one method puts in front of a module's class: ``forward`` calls ``super().forward`` for what lies further in.

    Class attributes:
        key: the method's name; the options of its adapters by name lie in the attribute ``<key>_options``.
        place: larger is further away from the module.
        tables: attributes that hold its parameters by adapter, each a ``Factors``.
        once_a_pass: those of ``tables`` that virtual positions are multiplied with, and not each token.
        reads_weight: whether it reads the module's weight, which must then stand there and not in the machine's order.
    """

    key: ClassVar[str]
    place: ClassVar[int]
    tables: ClassVar[tuple[str, ...]]
    once_a_pass: ClassVar[frozenset[str]] = frozenset()
    reads_weight: ClassVar[bool] = False
    edits: ClassVar[tuple[type[Edit], ...]] = ()  # of the class that was made, outermost first
    taken: frozenset[str] = frozenset()
    """Adapters here that do not act by themselves, since one further out takes what they would add."""

    @property
    def adapter_names(self) -> Iterable[str]:
        """The adapters of all methods at this site, and what rows can take of them."""
        return dict.fromkeys(
            route
            for edit in type(self).edits
            for name, options in options_at(self, edit).items()
            for route in (name, *edit.routes_in(name, options))
        )

    @classmethod
    def routes_in(cls, name: str, options: Mapping[str, Any]) -> Sequence[str]:  # noqa: ARG003
        """Return the routes that lead to parts of adapter ``name``."""
        return ()

    def given_up(self) -> Tensor | None:
        """Return what the module's weight gave up to adapters that began with some of it, fp32; None if nothing."""
        return None

    def put(
        self, name: str, options: dict[str, Any], tensors: Mapping[str, Tensor], *, edit: type[Edit]
    ) -> None:
        """Add one adapter with copies of its tensors, by table; frozen until a table of parameters says otherwise."""
        device = _device(self)
        for table, tensor in tensors.items():
            value = tensor.detach().to(device, torch.float32, copy=True)
            cast(Factors, getattr(self, table))[name] = nn.Parameter(value, requires_grad=False)
        options_at(self, edit)[name] = options

    def acting(self, edit: type[Edit], leading: Sequence[int]) -> Iterator[tuple[str, Tensor | None]]:
        """Yield each adapter of ``edit`` with the positions that it acts on, flattened; None for all of them.

        Args:
            edit: the method's class.
            leading: dimensions of this module's input but the last.
        """
        routing = self.routing
        for name in options_at(self, edit):
            if name in self.taken:
                continue
            if routing is None or name not in routing.named:
                yield name, None
            elif name in routing.present:
                yield name, routing.positions(leading, name, _device(self))


def at(values: Tensor, positions_N: Tensor | None) -> Tensor:
    """Return ``values`` (..., D) at flat positions (N, D); for None all of them, as they are."""
    return values if positions_N is None else values.flatten(0, -2).index_select(0, positions_N)


def plus(outputs: Tensor, added: Tensor, positions_N: Tensor | None) -> Tensor:
    """Return ``outputs`` (..., D) plus ``added`` (N, D) at flat positions, or (..., D) everywhere."""
    if positions_N is None:
        return outputs + added
    return outputs.flatten(0, -2).index_add(0, positions_N, added).view(outputs.shape)


def _device(module: nn.Module) -> torch.device:
    """Return where ``module`` computes: not where a weight is that only stands for one laid out elsewhere."""
    devices = [parameter.device for parameter in module.parameters()]
    return next((device for device in devices if device.type != "meta"), devices[0])


class _Plain(nn.Module):
    """Innermost, around a plain linear class: its product goes through ``weft.core.linear``."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I)."""
        return linear.forward(self, inputs)


_Kind = TypeVar("_Kind", bound=Edit)


def edited(module: nn.Module, edit: type[_Kind]) -> _Kind:
    """Return ``module`` with ``edit`` in front: itself if it has it, else its parameters in another class.

    The old module stays as it was.
    """
    kind = type(module)
    edits: tuple[type[Edit], ...] = getattr(kind, "edits", ())
    if edit in edits:
        return cast(_Kind, module)
    base: type[nn.Module] = getattr(kind, "edited", kind)
    made = object.__new__(_class_of(base, frozenset((*edits, edit))))
    vars(made).update(vars(module))
    for children in ("_modules", "_parameters"):
        vars(made)[children] = dict(vars(module)[children])
    for table in edit.tables:
        setattr(made, table, Factors())
    vars(made)[f"{edit.key}_options"] = {}
    return cast(_Kind, made)


def options_at(module: nn.Module, edit: type[Edit]) -> dict[str, dict[str, Any]]:
    """Return the options of the adapters of ``edit`` at ``module`` by name; empty where it is not edited so."""
    return vars(module).get(f"{edit.key}_options", {})


@cache
def _class_of(base: type[nn.Module], edits: frozenset[type[Edit]]) -> type[nn.Module]:
    """Return ``base`` with ``edits`` in front, as FSDP2 does: GPT-2's Conv1D needs no import of transformers."""
    ordered = tuple(sorted(edits, key=lambda edit: -edit.place))
    is_plain = linear.is_plain(base)
    asks = is_plain and not any(edit.reads_weight for edit in edits)
    own = {"edits": ordered, "edited": base, "is_plain": asks, "__doc__": ordered[0].__doc__}
    names = "".join(edit.__name__.removesuffix("Site") for edit in ordered)
    bases: tuple[type[nn.Module], ...] = (*ordered, *((_Plain,) if is_plain else ()), base)
    return type(f"{names}{base.__name__}", bases, own)
