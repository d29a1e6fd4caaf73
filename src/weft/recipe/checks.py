"""Rules that tie several keys of a recipe together. They look at the data as written, whatever else is wrong with it.

What depends on the model, on the strategy's methods or on the rows is checked by ``weft.build``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from weft.errors import nearest
from weft.recipe.document import Document, Path, Problem, described
from weft.recipe.spec import THINNED, Carry, CombineMethod, MixtureKind

Found = Iterator[tuple[Path, str]]
Stage = Mapping[str, Any]


def check(document: Document) -> list[Problem]:
    """Return what is wrong between the keys of ``document``; keys of a wrong type are left to the decoder."""
    tasks, stages = document.at(("tasks",)), document.at(("stages",))
    model = document.at(("model",))
    has_adapters = isinstance(model, Mapping) and bool(model.get("adapters"))
    if not isinstance(stages, list):
        return []
    found = list(_unique_names(stages))
    for index, stage in enumerate(stages):
        if isinstance(stage, Mapping):
            at: Path = ("stages", index)
            found += [(at + path, text) for rule in _STAGE_RULES for path, text in rule(stage)]
            found += [(at + path, text) for path, text in _parent_is_earlier(stage, stages[:index])]
            found += [
                (at + path, text)
                for path, text in _nothing_to_carry(stage, is_first=index == 0, has_adapters=has_adapters)
            ]
            if isinstance(tasks, Mapping):
                found += [(at + path, text) for path, text in _known_tasks(stage, tasks)]
    return [document.problem(path, text) for path, text in found]


def _unique_names(stages: list[Any]) -> Found:
    first: dict[str, int] = {}
    for index, stage in enumerate(stages):
        name = _name(stage)
        if name in first:
            yield (
                ("stages", index, "name"),
                f"must differ from all others, but stages.{first[name]} is {name!r} too.",
            )
        elif name is not None:
            first[name] = index


def _parent_is_earlier(stage: Stage, before: list[Any]) -> Found:
    parent = stage.get("parent")
    earlier = {name for name in map(_name, before) if name is not None}
    if isinstance(parent, str) and parent not in {"base", *earlier}:
        hint = nearest(parent, {"base", *earlier})
        yield ("parent",), f"must be 'base' or an earlier stage, but is {described(parent)}. {hint}"
    if isinstance(parent, list):
        names = cast(list[Any], parent)
        for index, name in enumerate(names):
            if isinstance(name, str) and (name not in earlier or name in names[:index]):
                what = "must be an earlier stage, and another one than those before it in the list"
                yield ("parent", index), f"{what}, but is {described(name)}. {nearest(name, earlier)}"


def _several_parents(stage: Stage) -> Found:
    """What can be carried from several parents is their weights, and of a union their adapters."""
    parent, carry, combine = stage.get("parent"), stage.get("carry"), stage.get("combine")
    if not isinstance(parent, list):
        if combine is not None:
            yield (
                ("combine",),
                "must be left out where a stage has not several parents. Write parent: [a, b].",
            )
        return
    names = cast(list[Any], parent)
    method = combine.get("method") if isinstance(combine, Mapping) else combine
    if isinstance(carry, Mapping):
        trunks = ("merge", "stack") if method == CombineMethod.UNION.value else ("merge",)
        for key, known in (("trunk", trunks), ("optimizer", ("fresh",))):
            if carry.get(key, known[0]) not in known:
                words = " or ".join(known)
                what = f"must be {words} where a stage has several parents, but is {described(carry[key])}"
                yield ("carry", key), f"{what}. Leave it out."
    if isinstance(combine, Mapping) and "density" in combine:
        named = CombineMethod.AVERAGE.value if method is None else method
        if isinstance(named, str) and named in set(CombineMethod) - THINNED:
            what = f"must be left out unless method is {', '.join(sorted(THINNED))}, but method is {named}"
            yield (
                ("combine", "density"),
                f"{what}, which keeps all changes. Name such a method, or leave it out.",
            )
    weights = combine.get("weights") if isinstance(combine, Mapping) else None
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in names:
            yield (
                ("combine", "weights", name),
                f"must be one of the parents {', '.join(map(str, names))}, but is not.",
            )


def _nothing_to_carry(stage: Stage, *, is_first: bool, has_adapters: bool) -> Found:
    carry, parent = stage.get("carry"), stage.get("parent")
    if not isinstance(carry, Mapping) or not (parent == "base" or (is_first and parent is None)):
        return
    default = Carry().model_dump(mode="json")
    for key, value in carry.items():
        if has_adapters and key == "trunk":
            continue
        if key in default and value != default[key]:
            what = f"must be left out where a stage starts from the base model, but is {described(value)}"
            yield ("carry", key), f"{what}. Nothing has been trained yet that could be carried."


def _continued_optimizer(stage: Stage) -> Found:
    carry = stage.get("carry")
    if not isinstance(carry, Mapping) or carry.get("optimizer") != "continue":
        return
    trunk = carry.get("trunk", Carry().trunk.value)
    if trunk != "continue":
        what = f"must be 'fresh' unless 'trunk: continue' keeps the same parameters, but is 'continue' with trunk {trunk!r}"
        yield ("carry", "optimizer"), f"{what}. Set trunk: continue, or leave it out."


def _known_tasks(stage: Stage, tasks: Mapping[str, Any]) -> Found:
    wanted = stage.get("tasks")
    names: list[tuple[Path, Any]] = []
    if isinstance(wanted, Mapping):
        names = [(("tasks", key), key) for key in wanted]
    elif isinstance(wanted, list):
        names = [(("tasks", index), name) for index, name in enumerate(wanted)]
    elif wanted is not None:
        names = [(("tasks",), wanted)]
    for path, name in names:
        if isinstance(name, str) and name not in tasks:
            yield path, f"must be a task of this recipe, but {described(name)} is not. {nearest(name, tasks)}"


def _rates_fit_mixture(stage: Stage) -> Found:
    tasks, kind = stage.get("tasks"), _mixture_kind(stage)
    fixed = MixtureKind.FIXED.value
    if not isinstance(tasks, Mapping):
        if kind == fixed:
            yield (
                ("mixture",),
                "must have rates with its tasks when it is fixed, but has none. Write tasks: {a: 0.7, b: 0.3}.",
            )
        return
    if kind is not None and kind != fixed and kind in set(MixtureKind):
        what = f"must be a list of tasks where the mixture is {kind}, but has rates"
        yield ("tasks",), f"{what}. Leave out the rates, or set mixture: fixed."
    rates = [rate for rate in tasks.values() if isinstance(rate, int | float)]
    if tasks and len(rates) == len(tasks) and set(rates) == {0}:
        yield (
            ("tasks", list(tasks)[-1]),
            "must be above 0 where no other rate is, but is not. Give a task a rate.",
        )


def _temperature_is_used(stage: Stage) -> Found:
    mixture = stage.get("mixture")
    if isinstance(mixture, Mapping) and "temperature" in mixture:
        kind = _mixture_kind(stage) or (
            "fixed" if isinstance(stage.get("tasks"), Mapping) else "proportional"
        )
        if kind != MixtureKind.TEMPERATURE.value:
            what = f"must be left out unless kind is temperature, but kind is {kind}"
            yield ("mixture", "temperature"), f"{what}. Set kind: temperature, or leave it out."


_STAGE_RULES: tuple[Callable[[Stage], Found], ...] = (
    _continued_optimizer,
    _several_parents,
    _rates_fit_mixture,
    _temperature_is_used,
)


def _name(stage: Any) -> str | None:
    name = stage.get("name") if isinstance(stage, Mapping) else None
    return name if isinstance(name, str) else None


def _mixture_kind(stage: Stage) -> str | None:
    mixture = stage.get("mixture")
    kind = mixture.get("kind") if isinstance(mixture, Mapping) else mixture
    return kind if isinstance(kind, str) else None
