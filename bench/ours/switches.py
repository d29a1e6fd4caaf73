"""Parts of Weft that a lever measurement turns off, where neither recipe nor environment has a key for it.

Each switch puts the plain form in the place of the fast one; results stay the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import PropertyMock, patch


@contextmanager
def switched_off(names: Iterable[str]) -> Generator[None]:
    """Leave out what ``names`` say."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(SWITCHES[name]())
        yield


def _padded() -> Any:
    """Rows of similar length on padded grids instead of one packed row (and so no store of frozen states)."""
    from weft.model.backbone import HFTrunk

    return patch.object(HFTrunk, "packs", new_callable=PropertyMock, return_value=False)


def _eager_attention() -> Any:
    """Attention in plain torch."""
    return patch("weft.native.attention.use_native", lambda *_tensors: None)


def _torch_adamw() -> Any:
    """Torch's fused AdamW, which updates every row of every table."""
    return patch("weft.train.optimizer.native", SimpleNamespace(available=lambda: False))


def _whole_tables() -> Any:
    """Every row of the embedding table updated at every step."""
    return patch("weft.train.optimizer._lazy_rows", lambda _table, _sites: [])


def _unpacked_weights() -> Any:
    """Frozen weights as they lie instead of laid out for oneDNN."""
    return patch("weft.core.twins.can_prepack", lambda *_given: False)


def _all_tokens() -> Any:
    """The last layer for all tokens, also for those that nobody reads."""
    from weft.model.backbone import HFTrunk

    return patch.object(HFTrunk, "_read", lambda _trunk, _batch: None)


SWITCHES: dict[str, Callable[[], Any]] = {
    "packing": _padded,
    "native attention": _eager_attention,
    "native AdamW": _torch_adamw,
    "lazy embedding rows": _whole_tables,
    "prepacked weights": _unpacked_weights,
    "only what is read": _all_tokens,
}
