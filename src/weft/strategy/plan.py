"""From rules and a view to a Plan: which modules are installed, and every parameter's role with its reason.

``weft.strategy.reading`` says who decides about a parameter when several rules name it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weft.core.table import ParamRow, ParamTable, Role
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.errors import StrategyError
from weft.recipe.names import check_name
from weft.recipe.spec import Rule
from weft.strategy.base import Install, Method, Plan, Timing
from weft.strategy.rates import VECTORS, WIDTH, Rate, of_heads, of_matrices, scaled
from weft.strategy.reading import CarriedAdapter, Reading, read
from weft.strategy.registry import adapter_method, method
from weft.strategy.selector import is_head, place_of

_UNDECAYED = frozenset({SiteKind.NORM, SiteKind.EMBEDDING})
_NONE = Rate(0.0, "")


def plan(
    view: ModelView,
    rules: Sequence[Rule],
    *,
    tasks: Sequence[str],
    stage_lr: float | None,
    adapter: str,
    carried: Sequence[CarriedAdapter] = (),
) -> Plan:
    """Return what ``rules`` do to a network that looks like ``view``; pure, needs no weights.

    Args:
        view: the network as it is, carried adapters included.
        rules: top to bottom; the last that names a parameter decides.
        tasks: tasks of the stage; their heads are trained unless a rule says otherwise, other heads are frozen.
        stage_lr: peak rate of rules that name none; None for each method's own (heads: ``weft.strategy.rates``).
        adapter: name of the adapter that this stage trains, if it trains one.
        carried: adapters that are in ``view`` already.

    Raises:
        NameInvalidError: ``adapter`` is not a plain name.
        SiteError: a selector matches nothing.
        StrategyError: a method cannot act where its rule puts it, a name is taken, or nothing would be trained.
    """
    reading = read(view, rules, tasks=tasks, adapter=check_name(adapter), carried=carried)
    order = {site.path: index for index, site in enumerate(view.sites)}
    installs = tuple(sorted(reading.installs(), key=lambda install: order[install.site]))
    table, defaults = _table(planned_view(view, installs), reading, stage_lr)
    if not table.trained():
        words = ", ".join(f"{rule.sites} -> {rule.train}" for rule in rules)
        raise StrategyError(
            f"strategy: something must be trained, but [{words}] leaves nothing. "
            f"Add a rule such as {{sites: linear, train: lora}}, or a task whose head has parameters."
        )
    return Plan(installs, table, reading.routes(), defaults)


def planned_view(view: ModelView, installs: Sequence[Install]) -> ModelView:
    """Return ``view`` as it will be once ``installs`` are made, so that stages can be planned one after another."""
    known = {site.path: site for site in view.sites}
    added: dict[str, tuple[ParamInfo, ...]] = {}
    for install in installs:
        infos = adapter_method(install.method).params(known[install.site], install.rule, install.adapter)
        added[install.site] = (*added.get(install.site, ()), *infos)
    sites = tuple(_grown(site, added[site.path]) if site.path in added else site for site in view.sites)
    return replace(view, sites=sites)


def _grown(site: Site, added: tuple[ParamInfo, ...]) -> Site:
    """Return ``site`` with parameters ``added`` in the order in which modules list them: grouped by container."""
    infos = (*site.params, *added)
    containers = [info.path.removeprefix(f"{site.path}.").split(".")[0] for info in infos]
    ranked = sorted(zip(containers, infos, strict=True), key=lambda pair: containers.index(pair[0]))
    return replace(site, params=tuple(info for _, info in ranked))


@dataclass(frozen=True, slots=True)
class _Defaults:
    """Rates that nobody named: those of methods in a trunk of ``width``, and that of heads."""

    width: int
    heads: Rate = _NONE

    def of(self, how: Method, rule: Rule | None = None) -> Rate:
        """Return the rate of a method's own parameters, under the rule of this stage that names them."""
        rate = Rate(how.lr, how.advice)
        if rule is not None and how.usual(rule) != how.lr:
            rate = scaled(rate, how.usual(rule) / how.lr, "these options")
        return of_matrices(rate, self.width) if how.moves_matrices else rate


@dataclass(frozen=True, slots=True)
class _Fate:
    """What becomes of one parameter: ``lr`` is the rule's own, ``default`` that of ``word``, both times ``factor``."""

    role: Role
    owner: str
    why: str
    lr: float | None = None
    default: Rate = _NONE
    factor: float = 1.0
    rule: Rule | None = None
    word: str = ""


def _table(view: ModelView, reading: Reading, stage_lr: float | None) -> tuple[ParamTable, tuple[str, ...]]:
    """Return the table, and a line on each rate that nobody named."""
    infos = [(site, info) for site in view.sites for info in site.params if info.tied_to is None]
    defaults = _Defaults(view.width)
    first = [(info, _fate(info.path, reading, defaults)) for _, info in infos]
    moving = [one for one in first if one[1].role is Role.TRAINED and not is_head(one[0].path)]
    rates = (own.default.value if own.lr is None else own.lr for _, own in moving)
    defaults = replace(defaults, heads=of_heads(rates, _head_width(view)))
    are_vectors = bool(moving) and all(len(info.shape) == 1 for info, _ in moving)

    def fate(path: str) -> _Fate:
        found = _fate(path, reading, defaults)
        return replace(found, default=VECTORS) if are_vectors and found.owner == "trunk" else found

    fates = [fate(info.path) for _, info in infos]
    pairs = zip(infos, fates, strict=True)
    rows = ParamTable(tuple(_row(view, site, info, own, stage_lr) for (site, info), own in pairs))
    fixed = {info.path for _, info in infos if info.is_fixed}
    if row := next((row for row in rows.trained() if row.path in fixed), None):
        raise StrategyError(
            f"{row.path}: must be frozen, as it is kept in few bits (model.quantize), but {row.why} trains it. "
            f"Put an adapter there, or leave out model.quantize."
        )
    unnamed = [one for one in fates if one.role is Role.TRAINED and one.lr is None and stage_lr is None]
    return rows, tuple(dict.fromkeys(map(_default_words, unnamed)))


def _head_width(view: ModelView) -> int:
    """Return how many values heads read; ``WIDTH`` where none has a matrix."""
    heads = (info.shape for site in view.sites for info in site.params if is_head(info.path))
    return max((shape[-1] for shape in heads if len(shape) >= 2), default=WIDTH)


def _default_words(fate: _Fate) -> str:
    who = "heads" if fate.owner.startswith("head:") else fate.word
    return f"{who} at a rate of {fate.default.value:.3g} unless lr says otherwise: {fate.default.advice}"


def _row(view: ModelView, site: Site, info: ParamInfo, fate: _Fate, stage_lr: float | None) -> ParamRow:
    if fate.role is Role.FROZEN:
        return ParamRow(info.path, info.shape, fate.role, fate.owner, fate.why)
    lr = fate.factor * next(rate for rate in (fate.lr, stage_lr, fate.default.value) if rate is not None)
    decay = len(info.shape) >= 2 and site.kind not in _UNDECAYED
    timing = Timing()
    if fate.rule is not None:
        place = place_of(view, info.path)
        timing = method(fate.rule.train).timing(fate.rule, place)
        lr *= fate.rule.layer_decay**place.above
    return ParamRow(
        info.path, info.shape, fate.role, fate.owner, fate.why, lr, decay, timing.since, timing.draw
    )


def _fate(path: str, reading: Reading, defaults: _Defaults) -> _Fate:
    if path in reading.adapter_of:
        return _adapter_fate(path, reading, defaults)
    owner = f"head:{path.split('.')[1]}" if is_head(path) else "trunk"
    if is_head(path) and not reading.is_trainable(path):
        return _Fate(Role.FROZEN, owner, "head of a task that this stage does not train")
    decision = reading.decisions.get(path)
    if decision is not None:
        default = defaults.heads if is_head(path) else defaults.of(method(decision.rule.train))
        rule = decision.rule
        return _Fate(decision.role, owner, decision.why, rule.lr, default, rule=rule, word=rule.train)
    if is_head(path):
        return _Fate(Role.TRAINED, owner, "head of a task of this stage", None, defaults.heads)
    return _Fate(Role.FROZEN, owner, "no rule names it")


def _adapter_fate(path: str, reading: Reading, defaults: _Defaults) -> _Fate:
    name, carried = reading.adapter_of[path]
    owner, decision = f"adapter:{name}", reading.decisions.get(path)
    if carried is not None and carried.role is Role.FROZEN:
        return _Fate(Role.FROZEN, owner, "carried adapter, stays as it is")
    if decision is not None:
        how = adapter_method(decision.rule.train if carried is None else carried.method)
        is_its_own = decision.rule.train == how.name  # a rule that freezes has no rates
        factor = how.rate(decision.rule, path.split(".")[-2]) if is_its_own else 1.0
        default = defaults.of(how, decision.rule if is_its_own else None)
        return _Fate(
            decision.role, owner, decision.why, decision.rule.lr, default, factor, decision.rule, how.name
        )
    assert carried is not None  # a new adapter has the decision of the rule that brings it
    why, how = "carried adapter, goes on", method(carried.method)
    return _Fate(Role.TRAINED, owner, why, None, defaults.of(how), word=how.name)
