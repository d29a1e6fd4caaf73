"""The rows of a stage as estimates see them: how long they are, and what virtual positions stand in front of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from weft.build.data import Data
from weft.build.stage import Entered
from weft.core.network import Trunk
from weft.core.parts import adapter_of
from weft.core.routing import NONE, Routing, groups_in
from weft.core.virtual import VirtualKeys, VirtualTokens, stacked
from weft.task.base import Divides
from weft.train.order import EpochOrder
from weft.train.progress import Progress


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one task.

    Attributes:
        tokens: of an example, on average.
        written: those of them that its reply has, which a decoder reads behind the others.
        count: rows that an example has, on average.
        longest: tokens of the longest row, with its reply.
        whole: most tokens that pass at once whatever the budget: of a row, or of an example that cannot be cut apart.
        virtual: virtual tokens in front of a row, which pass every layer.
        keys: virtual positions in front of a row that its attention alone sees, by layer that has some.
    """

    tokens: float
    written: float
    count: float
    longest: int
    whole: int
    virtual: int
    keys: Mapping[str, int]


def rows_of(entered: Entered, order: EpochOrder, data: Data) -> dict[str, Rows]:
    """Return the rows of each task that ``order`` draws."""
    found: dict[str, Rows] = {}
    for task, texts in order.texts.items():
        examples = data.tasks[task].train
        count = sum(1 + len(example.more) for example in examples) / len(examples)
        virtual, keys = _in_front(entered, task)
        written = sum(len(one.reply.tokens) for one in examples if one.reply is not None) / len(examples)
        longest = max(one.longest for one in examples)
        is_cut = isinstance(data.tasks[task].task, Divides)
        whole = longest if is_cut else int(texts.lengths_R.max())
        mean = float(texts.lengths_R.mean())
        found[task] = Rows(mean, written, count, longest, whole, virtual, keys)
    return found


def virtual_share(rows: Mapping[str, Rows], end: Progress) -> float:
    """Return how many virtual tokens come to each token of the stage that is at its ``end``."""
    examples = end.examples
    tokens = sum(count * rows[task].tokens for task, count in examples.items())
    virtual = sum(count * rows[task].count * rows[task].virtual for task, count in examples.items())
    return virtual / tokens


def stack_shares(
    entered: Entered, rows: Mapping[str, Rows], examples: Mapping[str, int]
) -> Callable[[str], float]:
    """Return by path the share of tokens that pass what lies there: all, but in a model of two stacks its own.

    Args:
        entered: the network.
        rows: of each task.
        examples: drawn of each task.
    """
    if not cast(Trunk, entered.network.trunk).info.is_encoder_decoder:
        return lambda _path: 1.0
    tokens = sum(count * rows[task].tokens for task, count in examples.items())
    written = sum(count * rows[task].written for task, count in examples.items()) / tokens
    return lambda path: 1 - written if path.startswith("encoder.") else written


def adapter_shares(entered: Entered, rows: Mapping[str, Rows], end: Progress) -> dict[str, float]:
    """Return for each adapter that rows choose the share of the stage's tokens that pass through it."""
    routes = entered.network.routes
    tokens = {task: count * rows[task].tokens for task, count in end.examples.items()}
    shares: dict[str, float] = {}
    for task, group in routes.items():
        for adapter in {adapter_of(route) for route in group}:
            shares[adapter] = shares.get(adapter, 0.0) + tokens.get(task, 0.0) / sum(tokens.values())
    return shares


def _in_front(entered: Entered, task: str) -> tuple[int, dict[str, int]]:
    """Return the virtual tokens of each row of ``task``, and its virtual keys by layer."""
    routes = entered.network.routes
    groups = groups_in(routes)
    place = groups.index(routes[task]) if task in routes else NONE
    routing = Routing.uniform(groups, place) if routes else None
    virtual, keys = 0, dict[str, int]()
    for site in entered.sites.view.sites:
        module = entered.sites.module(site.path)
        if isinstance(module, VirtualTokens):
            virtual = stacked(module.virtual_tokens(), routing, 1).most
        elif isinstance(module, VirtualKeys):
            keys[site.path.rpartition(".")[0]] = stacked(module.virtual_keys(), routing, 1).most
    return virtual, keys
