"""Parameters in the width of the arithmetic: bf16 copies stand in for fp32 masters while a network computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from weft.core import linear
from weft.core.prepacked import Direct, Stand, can_direct, can_prepack


@dataclass(slots=True)
class Twin:
    """One parameter twice.

    Attributes:
        master: fp32, what is trained, saved and exported.
        copy: the same values rounded, what forward and backward passes read; gradients arrive here. Without values
            (on the meta device) where all who multiply with them have them laid out: an honest error for anyone else.
        version: of the master when the copy was made; torch counts changes in place.
        is_kept: whether the optimizer writes the copy with the master. Torch's fused optimizers change weights without
            counting, so the copy of a trained master that nobody keeps is made anew each time.
    """

    master: nn.Parameter
    copy: nn.Parameter
    version: int
    is_kept: bool = False

    def kept(self) -> None:
        """Say that the copy was written together with the master."""
        self.is_kept = True
        self.version = self.master._version


class Twins:
    """Rounded copies of all floating-point parameters of ``module``, tied ones once.

    A copy is never stale: entering looks at each master's version counter, and copies trained masters in any case
    unless their optimizer keeps the copies itself. Linear weights that are frozen when the copies are made are also laid
    out as the machine's products read them.

    Args:
        module: whose parameters get copies; its set of parameters must stay the same from here on.
        dtype: of the copies.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._by_id: dict[int, Twin] = {}
        self._slots: list[tuple[dict[str, nn.Parameter | None], str, Twin]] = []
        self._stands = [stand for part in module.modules() if (stand := self._stand(part)) is not None]
        users = Counter(
            id(parameter) for part in module.modules() for parameter in vars(part)["_parameters"].values()
        )
        users.subtract(id(stand.weight) for stand in self._stands if isinstance(stand, Stand))
        users.subtract(
            id(linear.values(part)[0]) for part in module.modules() if linear.packed(part) is not None
        )
        for part in module.modules():
            own = vars(part)["_parameters"]
            for name, parameter in own.items():
                if parameter is not None and parameter.is_floating_point():
                    twin = self._twin(parameter, has_values=users[id(parameter)] > 0)
                    self._slots.append((own, name, twin))
        self._depth = 0

    def _stand(self, part: nn.Module) -> Stand | Direct | None:
        weight = vars(part)["_parameters"].get("weight")
        if weight is None:
            return None
        if can_prepack(part, weight, self.dtype):
            return Stand(part, weight)
        return Direct(part) if can_direct(part, weight, self.dtype) else None

    def _twin(self, master: nn.Parameter, *, has_values: bool) -> Twin:
        if id(master) not in self._by_id:
            device = master.device if has_values else torch.device("meta")
            copy = torch.empty_like(master, dtype=self.dtype, device=device)
            copy.copy_(master.detach())
            self._by_id[id(master)] = Twin(
                master, nn.Parameter(copy, requires_grad=master.requires_grad), master._version
            )
        return self._by_id[id(master)]

    def __iter__(self) -> Iterator[Twin]:
        return iter(self._by_id.values())

    def of(self, master: nn.Parameter) -> Twin | None:
        """Return the twin of ``master``; None where it has none."""
        return self._by_id.get(id(master))

    @contextmanager
    def standing_in(self) -> Generator[None]:
        """Put the copies, brought up to date, in the masters' places within the block; may be nested."""
        self._depth += 1
        try:
            if self._depth == 1:
                self._refresh()
                for parameters, name, twin in self._slots:
                    parameters[name] = twin.copy
                for stand in self._stands:
                    stand.put()
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                for stand in self._stands:
                    stand.remove()
                for parameters, name, twin in self._slots:
                    parameters[name] = twin.master

    def stay(self) -> None:
        """Put the copies in the masters' places for good; nothing here keeps the masters any longer."""
        for parameters, name, twin in self._slots:
            parameters[name] = twin.copy
        for stand in self._stands:
            stand.stay()

    def collect(self) -> None:
        """Add the copies' gradients to their masters', in fp32, and clear them."""
        for twin in self:
            grad, twin.copy.grad = twin.copy.grad, None
            if grad is None:
                continue
            if twin.master.grad is None:
                twin.master.grad = grad.to(twin.master.dtype)
            else:
                twin.master.grad += grad.to(twin.master.dtype)

    def _refresh(self) -> None:
        stale = [
            twin
            for twin in self
            if twin.version != twin.master._version or (not twin.is_kept and twin.master.requires_grad)
        ]
        if stale:
            with torch.no_grad():
                for twin in stale:
                    twin.copy.copy_(twin.master)
        for twin in stale:
            twin.version = twin.master._version
        for twin in self:
            if twin.copy.requires_grad is not twin.master.requires_grad:
                twin.copy.requires_grad_(twin.master.requires_grad)
