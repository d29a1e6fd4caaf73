"""A recipe back to YAML, every default written out; what is dumped loads to an equal recipe."""

from __future__ import annotations

from io import StringIO
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from weft.recipe.spec import THINNED, MixtureKind, Recipe, Rule, StageSpec, TaskSpec


def dump(recipe: Recipe) -> str:
    """Return ``recipe`` as YAML that ``loads`` to an equal recipe with the same digest.

    Keys that a recipe may not say beside others (the temperature of a mixture without one, rates of a mixture that is
    not fixed, the density of an average) are left out.
    """
    data = recipe.model_dump(mode="json")
    data["tasks"] = {name: _member(task) for name, task in recipe.tasks.items()}
    data["stages"] = [
        _stage(stage) | _rules(stage_spec)
        for stage, stage_spec in zip(data["stages"], recipe.stages, strict=True)
    ]
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]  # keep the order of the fields
    yaml.width = 110
    out = StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _member(value: TaskSpec | Rule) -> dict[str, Any]:
    """Return the keys of a task or rule, without the defaults that its class does not let anybody spell out."""
    full = value.model_dump(mode="json")
    refused: set[str] = set()
    for key in full.keys() - value.model_fields_set - {"kind", "train"}:
        said = {
            name: full[name]
            for name in full
            if name in value.model_fields_set or name in ("kind", "train", key)
        }
        try:
            type(value).model_validate(said)
        except ValidationError:
            refused.add(key)
    return {key: item for key, item in full.items() if key not in refused}


def _rules(stage: StageSpec) -> dict[str, Any]:
    return {} if isinstance(stage.strategy, str) else {"strategy": [_member(rule) for rule in stage.strategy]}


class _Representer(SafeRepresenter):
    """Quotes text with line breaks and other signs that plain YAML would not give back."""

    def represent_str(self, data: str) -> ScalarNode:
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    kind = stage["mixture"]["kind"]
    if kind != MixtureKind.TEMPERATURE:
        stage["mixture"].pop("temperature")
    if not isinstance(stage["parent"], list):
        stage.pop("combine")
    elif stage["combine"]["method"] not in THINNED:
        stage["combine"].pop("density")
    if not stage["tasks"]:
        stage.pop("tasks")
    elif kind != MixtureKind.FIXED:
        stage["tasks"] = list(stage["tasks"])
    return stage
