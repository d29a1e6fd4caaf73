"""Run a stock layer stack below or above layer k, with the model's own code and nothing of ours in between.

The model's ``forward`` is never rewritten: modules that are not to be computed get another ``forward`` for the length
of one call. What stays is exact, and whatever a stack reads off its layers (``attention_type``) is still there.

Legend: B rows, L their length (1 and T when packed), D width.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from weft.errors import ModelError
from weft.model.names import NameTable, name_table

_LAYERS = "layers.{i}."
_IRRELEVANT = re.compile(
    r"_name_or_path|architectures|transformers_version|(torch_)?dtype|id2label|label2id|.*drop.*"
)

Forward = Callable[..., Any]


class _Reached(BaseException):
    """Leaves a stock forward with what was wanted of it; no handler of ordinary errors on the way may take it."""

    def __init__(self, states_BLD: Tensor) -> None:
        super().__init__()
        self.states_BLD = states_BLD


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A place in the stack of a backbone; make one with ``cut_at``.

    Attributes:
        backbone: the stock model, e.g. a ``BertModel``.
        table: its names.
        layers: its layers.
        at: k: the states are those that layer k is given. ``len(layers)`` means what the last layer returns, one more
            what the whole model returns, after its final norm.
    """

    backbone: nn.Module
    table: NameTable
    layers: tuple[nn.Module, ...]
    at: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the stack is left above the cut."""
        return self.at > len(self.layers)

    def lower(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the states at the cut, shape (B, L, D), without gradients and dropout; nothing above is computed.

        Args:
            inputs: keyword arguments of the stock forward, as for the whole model.

        Raises:
            ModelError: the stack does not hand plain tensors from layer to layer.
        """
        with torch.no_grad(), evaluating(self.backbone):
            if self.is_whole:
                return self.backbone(**inputs).last_hidden_state
            try:
                with forwards([self._stop()]):
                    self.backbone(**inputs)
            except _Reached as reached:
                if isinstance(reached.states_BLD, Tensor):
                    return reached.states_BLD
        raise ModelError(
            f"{type(self.backbone).__name__}: layers must hand one tensor to one another, but these do not. "
            f"Train without stored states."
        )

    @contextmanager
    def upper(self, states_BLD: Tensor) -> Generator[None]:
        """Let the stock forward begin at the cut with ``states_BLD`` within the block.

        Embeddings and layers below cost a Python call each and no arithmetic (two learnt tables of embeddings: one
        addition). Call the model with its usual arguments: masks and positions come from them, token ids are not read.

        Args:
            states_BLD: what ``lower`` returned for the same inputs, in the dtype that the model computes in.
        """

        def given(*_args: object, **_rest: object) -> Tensor:
            return states_BLD

        def passed(hidden_BLD: Tensor, *_args: object, **_rest: object) -> Tensor:
            return hidden_BLD

        skipped = self.layers[: self.at]
        swaps: list[tuple[nn.Module, Forward]] = [(module, given) for module in self._entrances()]
        swaps += [(layer, passed) for layer in skipped[:-1]]
        if self.is_whole:
            swaps += [(module, given) for module in (skipped[-1], *self._exits())]
        elif skipped:
            swaps.append((skipped[-1], given))
        else:
            first = self.layers[0].forward
            swaps.append((self.layers[0], lambda _hidden, *args, **rest: first(states_BLD, *args, **rest)))
        with forwards(swaps):
            yield

    def digest(self) -> str:
        """Return SHA-256 of all in the model that ``lower`` depends on.

        That is weights and buffers below, the configuration, the versions of torch and transformers. Not in it: the
        precision of computing, and which of several adapters below are active.
        """
        import transformers

        config = {
            name: value for name, value in _config(self.backbone).items() if not _IRRELEVANT.fullmatch(name)
        }
        about = [config, self.at, torch.__version__, transformers.__version__]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
        below = (*self._entrances(), *self.layers[: self.at], *(self._exits() if self.is_whole else ()))
        for part, module in enumerate(below):
            for name, value in (*module.named_parameters(), *module.named_buffers()):
                digest.update(f"\0{part}.{name} {value.dtype} {tuple(value.shape)}\0".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _stop(self) -> tuple[nn.Module, Forward]:
        if self.at < len(self.layers):

            def before(hidden_BLD: Tensor, *_args: object, **_rest: object) -> Tensor:
                raise _Reached(hidden_BLD)

            return self.layers[self.at], before
        last = self.layers[-1].forward

        def after(*args: object, **rest: object) -> Tensor:
            raise _Reached(last(*args, **rest))

        return self.layers[-1], after

    def _entrances(self) -> list[nn.Module]:
        """Return the modules whose results only layer 0 sees, looked up anew: a strategy may have replaced one."""
        return self._children("embeddings.")

    def _exits(self) -> list[nn.Module]:
        return self._children("final_norm")

    def _children(self, canonical: str) -> list[nn.Module]:
        names = dict.fromkeys(
            raw.partition(".")[0] for raw, site in self.table.pairs if site.startswith(canonical)
        )
        children = dict(self.backbone.named_children())
        return [children[name] for name in names if name in children]


def cut_at(backbone: nn.Module, at: int) -> Cut:
    """Return the cut of ``backbone`` before layer ``at``.

    Args:
        backbone: a stock model without a head (``AutoModel``, or a causal LM's ``base_model``).
        at: 0 to the number of layers, or one more for what the whole backbone returns.

    Raises:
        ModelError: this backbone cannot be cut, or has fewer layers.
    """
    why = obstacle(backbone)
    if why:
        raise ModelError(f"{type(backbone).__name__}: must be a model that can be cut, but {why}.")
    table = name_table(_config(backbone))
    layers = layers_of(backbone, table)
    if not 0 <= at <= len(layers) + 1:
        raise ModelError(f"cut: must lie between 0 and {len(layers) + 1}, but is {at}.")
    return Cut(backbone, table, layers, at)


def obstacle(backbone: nn.Module) -> str:
    """Return why this backbone cannot be cut, in words that end a sentence; empty where it can."""
    table = name_table(_config(backbone))
    if not table.has_table:
        return f"the layers of {table.architecture} are not known by name"
    if not _layer_lists(table):
        return f"{table.architecture} has two stacks"
    layers = layers_of(backbone, table)
    if not layers or len({id(layer) for layer in layers}) < len(layers):
        return "it has no layers of their own"
    return ""


def layers_of(backbone: nn.Module, table: NameTable) -> tuple[nn.Module, ...]:
    """Return the layers of a model with one stack, found by its name table.

    Raises:
        ModelError: the table knows no layers, or several stacks.
    """
    lists = _layer_lists(table)
    if len(lists) != 1:
        raise ModelError(
            f"{table.architecture}: must have one list of layers, but {len(lists)} are known by name."
        )
    found = cast(nn.ModuleList, backbone.get_submodule(lists.pop()))
    return tuple(found)  # its ``children()`` would leave out a layer that stands there twice


def all_layers(backbone: nn.Module, table: NameTable) -> tuple[nn.Module, ...]:
    """Return the layers of a model's one stack, or of both, where they are known by name; else none."""
    if not obstacle(backbone):
        return layers_of(backbone, table)
    stacks = dict.fromkeys(raw.partition(".{i}")[0] for raw, site in table.pairs if f".{_LAYERS}" in site)
    there = dict(backbone.named_modules())  # a decoder may have been left out
    return tuple(layer for stack in stacks for layer in cast(Iterable[nn.Module], there.get(stack, ())))


def deepest_cut(trained: Iterable[str], *, num_layers: int) -> int | None:
    """Return the highest place below which nothing is trained; None where there is no such place.

    Args:
        trained: canonical paths (or sites) of everything that is trained, heads included.
        num_layers: of the trunk.

    Example:
        >>> deepest_cut(["layers.4.ffn.up.weight", "layers.5.norm.ffn.bias", "heads.x.weight"], num_layers=6)
        4
        >>> deepest_cut(["heads.x.weight"], num_layers=6)
        7
    """
    places = [place(path, num_layers) for path in trained]
    lowest = min(places, default=num_layers + 1)
    return None if lowest < 0 else lowest


def place(path: str, num_layers: int) -> int:
    """Return the deepest cut that keeps ``path`` above it, -1 where none does."""
    first, _, rest = path.partition(".")
    match first:
        case "layers":
            number = rest.partition(".")[0]
            return int(number) if number.isdecimal() else -1
        case "final_norm":
            return num_layers
        case "pooler" | "lm_head" | "heads":
            return num_layers + 1
        case _:
            return -1


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Keep ``module`` in evaluation mode within the block and put every part of it back as it was."""
    was = [part for part in module.modules() if part.training]
    for part in was:
        part.training = False
    try:
        yield
    finally:
        for part in was:
            part.training = True


@contextmanager
def forwards(swaps: Iterable[tuple[nn.Module, Forward]], *, name: str = "forward") -> Generator[None]:
    """Give each module another ``forward``, or another method called ``name``, within the block.

    The new one lies on the instance, in front of the class's: modules, hooks and attributes stay what they are.
    """
    undo: list[tuple[dict[str, Any], Forward | None]] = []
    try:
        for module, forward in swaps:
            own = vars(module)
            undo.append((own, own.get(name)))
            own[name] = forward
        yield
    finally:
        for own, was in reversed(undo):
            if was is None:
                del own[name]
            else:
                own[name] = was


def _layer_lists(table: NameTable) -> set[str]:
    return {raw.partition(".{i}")[0] for raw, site in table.pairs if site.startswith(_LAYERS)}


def _config(backbone: nn.Module) -> dict[str, Any]:
    return cast(Any, backbone).config.to_dict()
