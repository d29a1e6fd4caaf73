"""What a stage hands on: everything that differs from the base model, as values keyed by canonical path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AdapterState:
    """One trained adapter (LoRA, ...) that is not folded into the weights.

    Attributes:
        name: a plain name, unique within the parts.
        method: the registered method that understands it (``lora``).
        config: JSON values: the method's options and ``sites``, the canonical paths it sits at.
        tensors: by canonical path, e.g. ``layers.3.attention.query.lora_A.<name>``.
        tasks: whose rows alone pass through it; empty for all rows.
        parts: the part of it that rows of each of ``tasks`` take; empty where all take the whole of it.
        stage: that brought it, or those that it joined; adapters of one stage go on together.
    """

    name: str
    method: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tasks: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    stage: str = ""

    @property
    def routes(self) -> dict[str, str]:
        """Where rows of each of ``tasks`` go: to this adapter, or to their part of it."""
        return routes_to(self.name, self.tasks, self.parts)


@dataclass(frozen=True, slots=True)
class HeadState:
    """One task's head and what is needed to build the task again without its training data.

    Attributes:
        task: the task's name.
        kind: its family (``classification``, ...).
        config: JSON values as ``Task.config()`` returns them (labels, columns, options).
        tensors: by path within the head (``out.weight``); empty where the head owns nothing.
    """

    task: str
    kind: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Parts:
    """The difference between a trained network and its base model.

    Attributes:
        delta: new values (not differences) of trunk parameters that were trained or merged into.
        adapters: in the order in which they were stacked.
        heads: by task name.
    """

    delta: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    adapters: tuple[AdapterState, ...] = ()
    heads: Mapping[str, HeadState] = field(default_factory=dict[str, HeadState])

    def adapters_of(self, task: str) -> tuple[AdapterState, ...]:
        """Return the adapters that rows of ``task`` pass through, in stacking order."""
        return tuple(one for one in self.adapters if not one.tasks or task in one.tasks)


def routes_to(adapter: str, tasks: Sequence[str], parts: Sequence[str]) -> dict[str, str]:
    """Return where rows of each of ``tasks`` go: to ``adapter``, or where there are ``parts``, to theirs of it.

    Example:
        >>> routes_to("shared", ["a", "b"], ["a", "b"])
        {'a': 'shared/a', 'b': 'shared/b'}
    """
    if not parts:
        return dict.fromkeys(tasks, adapter)
    return {task: f"{adapter}/{part}" for task, part in zip(tasks, parts, strict=True)}


def tasks_and_parts(
    adapter: str, routes: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tasks whose routes lead to ``adapter``, and the parts of it that they take: ``routes_to`` undone.

    Example:
        >>> tasks_and_parts("shared", {"a": ["own", "shared/a"], "c": ["own"]})
        (('a',), ('a',))
    """
    found = {
        task: route.partition("/")[2]
        for task, own in routes.items()
        for route in own
        if adapter_of(route) == adapter
    }
    return tuple(found), tuple(part for part in found.values() if part)


def adapter_of(route: str) -> str:
    """Return the adapter that ``route`` leads to, or to a part of."""
    return route.partition("/")[0]
