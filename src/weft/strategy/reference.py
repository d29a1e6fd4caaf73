"""What a strategy costs, on a model that everybody knows: BERT-base, by its shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.errors import WeftError
from weft.recipe.spec import Rule
from weft.strategy.choosing import expanded
from weft.strategy.plan import plan

_WIDTH, _INNER, _LAYERS, _VOCABULARY, _POSITIONS, _SEGMENTS = 768, 3072, 12, 30_522, 512, 2


def share_trained(rules: Sequence[Rule]) -> float | None:
    """Return the values that ``rules`` train for one task, heads not counted, as a share of BERT-base's own.

    None where they cannot act there: a rule that needs further options, or adapters to stand on.

    Example:
        >>> from weft.strategy.named import resolve
        >>> f"{share_trained(resolve('lora')):.2%}"
        '1.22%'
    """
    view = bert_base()
    try:
        plain, _ = expanded(rules, view, None)
        table = plan(view, plain, tasks=("task",), stage_lr=None, adapter="new").table
    except WeftError:
        return None
    trained = sum(row.size for row in table.trained() if not row.owner.startswith("head:"))
    return trained / sum(info.size for site in view.sites for info in site.params)


@cache
def bert_base() -> ModelView:
    """Return BERT-base as Weft sees it (arXiv:1810.04805, section 3), without a head."""
    return ModelView("bert", tuple(_sites()), {"": _LAYERS})


def _sites() -> Iterator[Site]:
    for name, rows in (("word", _VOCABULARY), ("position", _POSITIONS), ("segment", _SEGMENTS)):
        yield _site(f"embeddings.{name}", SiteKind.EMBEDDING, (rows, _WIDTH))
    yield _site("embeddings.norm", SiteKind.NORM, (_WIDTH,))
    for index in range(_LAYERS):
        layer = f"layers.{index}"
        for part in ("query", "key", "value", "output"):
            yield _site(f"{layer}.attention.{part}", SiteKind.LINEAR, (_WIDTH, _WIDTH))
        yield _site(f"{layer}.norm.attention", SiteKind.NORM, (_WIDTH,))
        yield _site(f"{layer}.ffn.up", SiteKind.LINEAR, (_INNER, _WIDTH))
        yield _site(f"{layer}.ffn.down", SiteKind.LINEAR, (_WIDTH, _INNER))
        yield _site(f"{layer}.norm.ffn", SiteKind.NORM, (_WIDTH,))
    yield _site("pooler", SiteKind.LINEAR, (_WIDTH, _WIDTH))


def _site(path: str, kind: SiteKind, shape: tuple[int, ...]) -> Site:
    params = [ParamInfo(f"{path}.weight", shape)]
    if kind is not SiteKind.EMBEDDING:
        params.append(ParamInfo(f"{path}.bias", shape[:1]))
    return Site(path, kind, path, tuple(params))
