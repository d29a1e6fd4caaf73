"""Write a recipe in Python values: here one stage for each strategy, to see what it would train before it does.

python examples/recipe_in_python.py recipes/data/quickstart/sentiment.train.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

from weft.build.catalogue import catalogue
from weft.build.data import read_data
from weft.build.network import open_base
from weft.build.stage import rehearse
from weft.model.tokenizer import load_tokenizer
from weft.recipe.dump import dump
from weft.recipe.spec import Recipe

STRATEGIES = ("head", "bias", "lora", "top 2", "full")


def recipe_for(data: str, model: str) -> Recipe:
    """Return a recipe that tries every strategy from the base model on; it is checked like a file."""
    stages = [
        {"name": name.replace(" ", ""), "parent": "base", "strategy": name, "length": "1 epoch"}
        for name in STRATEGIES
    ]
    values = {
        "model": {"path": model, "max_tokens": 128},
        "tasks": {"mine": {"kind": "classification", "train": data}},
        "stages": stages,
    }
    return Recipe.model_validate(values, context=catalogue())


def main(arguments: list[str]) -> None:
    """Print the recipe for the data ``arguments[0]``, on ``arguments[1]`` (default: minilm), and what it trains."""
    data, model = arguments[0], arguments[1] if len(arguments) > 1 else "minilm"
    recipe, root = recipe_for(data, model), Path.cwd()
    print(dump(recipe))
    base = open_base(recipe, root=root)
    tokenizer = load_tokenizer(base.folder, max_tokens=recipe.model.max_tokens)
    tasks = read_data(recipe, tokenizer, root=root).fitted
    for stage, entered in rehearse(recipe, base=base, tasks=tasks):  # every stage, without weights
        trained, total = entered.table.num_trained(), entered.table.num_values()
        print(f"{stage.name:6}  {trained:>12,} of {total:,} values")


if __name__ == "__main__":
    main(sys.argv[1:])
