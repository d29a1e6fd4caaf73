"""``weft methods``: every method and named strategy, what it edits, what it can be joined with, and its source."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast

import typer

from weft.cli.messages import say

_COLUMNS = ("method", "edits", "sites", "lr", "merges", "per_task", "alone", "keeps", "cost", "source")


def run(is_json: Annotated[bool, typer.Option("--json", help=say("methods.json"))] = False) -> None:
    """Print methods with their capabilities, and the strategies that have a name."""
    found = gather()
    if is_json:
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        return
    from rich.table import Table

    from weft.cli.console import out
    from weft.strategy.rates import NAMED_FOR, WIDTH

    console, table = out(), Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(say(f"methods.{column}"))
    for method in found["methods"]:
        cells = {**method, "cost": _share(method["cost"]), "lr": _rate(method)}
        table.add_row(*(_shown(cells[column]) for column in _COLUMNS))
    console.print(table)
    console.print(say("methods.width", named_for=NAMED_FOR, least=WIDTH))
    console.print()
    named = Table(box=None, pad_edge=False)
    for column in ("strategy", "cost", "rules"):
        named.add_column(say(f"methods.{column}"))
    for name, rules in found["strategies"].items():
        named.add_row(name, _share(found["costs"][name]), "; ".join(_rule(rule) for rule in rules))
    console.print(named)
    console.print()
    choosing = Table(box=None, pad_edge=False)
    for column in ("rule", "options", "source"):
        choosing.add_column(say(f"methods.{column}"))
    for rule in found["choosing"]:
        choosing.add_row(rule["rule"], " ".join(rule["options"]), rule["source"])
    console.print(choosing)


def gather() -> dict[str, Any]:
    """Return methods, named strategies, and rules that choose modules, as JSON values."""
    from weft.strategy.base import Edits
    from weft.strategy.named import STRATEGIES
    from weft.strategy.rates import NAMED_FOR
    from weft.strategy.reference import share_trained
    from weft.strategy.registry import CHOOSING, METHODS
    from weft.strategy.site_method import SiteMethod

    methods: list[dict[str, Any]] = []
    for name, method in METHODS.items():
        adapter = method if isinstance(method, SiteMethod) else None
        options, rule = _options(method.rule.model_fields), _default(method)
        methods.append(
            {
                "method": name,
                "edits": str(method.edits),
                "sites": sorted(map(str, method.kinds)),
                "lr": method.lr,
                "lr_width": NAMED_FOR if method.moves_matrices else None,
                "merges": method.edits is Edits.WEIGHT,
                "per_task": adapter is not None and adapter.routes,
                "alone": adapter is not None and adapter.is_alone,
                "keeps": adapter is None or rule is None or adapter.keeps_function(rule),
                "cost": None if rule is None else share_trained([rule]),
                "options": options,
                "source": method.source,
            }
        )
    strategies = {
        name: [
            {"sites": rule.sites, **rule.model_dump(mode="json", exclude_defaults=True), "train": rule.train}
            for rule in rules
        ]
        for name, rules in STRATEGIES.items()
    }
    choosing = [
        {"rule": name, "options": _options(rule.model_fields), "source": rule.source}
        for name, rule in CHOOSING.items()
    ]
    costs = {name: share_trained(rules) for name, rules in STRATEGIES.items()}
    return {"methods": methods, "strategies": strategies, "costs": costs, "choosing": choosing}


def _options(fields: Iterable[str]) -> list[str]:
    """Return the options that not every rule has."""
    return [key for key in fields if key not in ("sites", "train", "lr")]


def _default(method: Any) -> Any:
    """Return the method's rule with its default options, on all of the trunk where it has no default sites.

    None where it needs further options, as a tuner of PEFT does.
    """
    fields = method.rule.model_fields
    given = {"sites": "all"} if fields["sites"].is_required() else {}
    needs_more = any(field.is_required() for name, field in fields.items() if name not in given)
    return None if needs_more else method.rule.model_validate(given)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _rate(method: Mapping[str, Any]) -> str:
    """Return the default rate, with a star where it is that of one width."""
    return f"{method['lr']:g}" + ("" if method["lr_width"] is None else " *")


def _shown(value: Any) -> str:
    match value:
        case bool():
            return say("env.yes" if value else "env.no")
        case list():
            return " ".join(map(str, cast(list[Any], value)))
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _rule(rule: Mapping[str, Any]) -> str:
    more = [f"{key} {value}" for key, value in rule.items() if key not in ("sites", "train")]
    return ", ".join([f"{rule['train']} on {rule['sites']}", *more])
