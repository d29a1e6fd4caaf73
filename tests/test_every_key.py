"""Every key of a recipe changes something that can be seen.

The keys are read off the pydantic classes, those of every registered family and method included, and each must have a
case: two values, and something that a run does or writes which differs between them. What only echoes the recipe does
not count. Each way of looking is first shown to see no difference between a recipe and itself.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from weft.build.catalogue import catalogue
from weft.build.order import order_of
from weft.build.stage import parts_from
from weft.core.parts import Parts
from weft.errors import RecipeError
from weft.evaluate.predict import answer_all
from weft.model import compiled
from weft.model.device import pick_precision
from weft.native import eight_bit
from weft.recipe.spec import Carry, Combine, MixtureSpec, ModelSpec, Recipe, StageSpec
from weft.run.events import Evaluated, Finished, Saved
from weft.run.folder import RunFolder
from weft.run.session import train as run
from weft.task.answering import DecodingSpec
from weft.task.documents import Windows
from weft.train.loop import Course, train
from weft.train.progress import Progress

Values = dict[str, Any]
CPU = torch.device("cpu")
SETTLED = {
    "none.lr",
    "none.layer_decay",
    "none.since",
    "dora.init",
    "dora.per_task",
    "generation.execute",
}  # keys that take one value only; what any other value does is tested by itself


def all_keys() -> set[str]:
    """Return every key of every part of a recipe as ``<part>.<key>``."""
    members = catalogue()
    parts = {"recipe": Recipe, "model": ModelSpec, "mixture": MixtureSpec, "stage": StageSpec, "carry": Carry}
    parts |= {"combine": Combine, "windows": Windows, "decoding": DecodingSpec}
    parts |= {**members.tasks, **members.methods}
    return {f"{part}.{key}" for part, kind in parts.items() for key in kind.model_fields}


# ------------------------------------------------------------------------------------- ways to look


@dataclass(frozen=True)
class Lab:
    """Where recipes are tried: a folder with data, two models, and the kit that opens recipes."""

    kit: ModuleType
    root: Path
    seen: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])

    def open(self, values: Values) -> Any:
        recipe = Recipe.model_validate(values, context=catalogue())
        return self.kit.open_kit(recipe, root=self.root)

    def look(self, how: Callable[[Lab, Values], Any], values: Values) -> Any:
        """Return what ``how`` sees of a recipe; looked at once, for many cases start from the same one."""
        key = (how.__name__, Recipe.model_validate(values, context=catalogue()).digest())
        if key not in self.seen:
            self.seen[key] = how(self, values)
        return self.seen[key]


def digest(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return what tells tensors apart bit by bit."""
    return {
        path: hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
        for path, value in tensors.items()
    }


def rows(lab: Lab, values: Values) -> Any:
    """What every task learns from and is judged on: tokens, targets and right answers."""
    return {
        name: [
            [
                (
                    [text.tokens for text in one.texts],
                    repr(getattr(one.target, "labels", one.target)),
                    one.gold,
                )
                for one in split
            ]
            for split in (data.train, data.dev, data.test)
        ]
        for name, data in lab.open(dict(values)).data.tasks.items()
        if name == "main"
    }


def tables(lab: Lab, values: Values) -> Any:
    """Which parameters move in each stage, and at which rate."""
    return [
        [(row.path, row.shape, row.role, row.lr, row.since, row.draw) for row in entered.table]
        for _, entered in lab.open(values).rehearse()
    ]


def or_refused(lab: Lab, values: Values) -> Any:
    """Which parameters move in each stage, or why none can."""
    try:
        return tables(lab, values)
    except RecipeError as error:
        return str(error)


def draws(lab: Lab, values: Values) -> Any:
    """Which rows come into which step of two epochs."""
    kit = lab.open(values)
    order = order_of(kit.recipe, kit.recipe.stages[0], kit.data, by_length=True)
    return [order.steps(epoch) for epoch in (0, 1)]


def passes(lab: Lab, values: Values) -> Any:
    """The shapes of the batches of the first step."""
    kit = lab.open(values)
    stage = kit.recipe.stages[0]
    first = order_of(kit.recipe, stage, kit.data, by_length=True).steps(0)[0]
    return [tuple(batch.tokens.shape) for batch in kit.feed(stage)(first)]


def trained(lab: Lab, values: Values) -> tuple[Any, Any]:
    """Return the recipe opened and its last stage entered and trained, every stage before it too."""
    kit = lab.open(values)
    handed: dict[str, Parts] = {}
    entered: Any = None
    for stage in kit.recipe.stages:
        branches = {parent.name: handed[parent.name] for parent in kit.recipe.parents_of(stage)}
        parts = parts_from(kit.recipe, stage, branches, base=kit.base, device=CPU)
        entered = kit.enter(stage.name, parts)
        engine = kit.engine(entered, stage)
        engine.dtype = pick_precision(kit.recipe.precision, CPU)
        order = order_of(kit.recipe, stage, kit.data, by_length=True)
        course = Course(stage.length, stage.schedule, stage.warmup)
        feed = replace(kit.feed(stage), routes=entered.network.routes)
        for _ in train(engine, order, feed, course=course, start=Progress()):
            pass
        handed[stage.name] = entered.leave()
    return kit, entered


def weights(lab: Lab, values: Values) -> Any:
    """The weights after the last stage, bit by bit."""
    _, entered = trained(lab, values)
    return digest(dict(entered.sites.parameters()))


def graphs(lab: Lab, values: Values) -> int:
    """How many graphs of the trunk's layers are handed to a compiler in a whole run."""
    count = 0

    def backend(graph: Any, _inputs: Any) -> Any:
        nonlocal count
        count += 1
        return graph.forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "BACKEND", backend)
        compiled.function_of.cache_clear()
        whole_run(lab, values)
    compiled.function_of.cache_clear()
    return min(count, 1)


def in_bytes(lab: Lab, values: Values) -> bool:
    """Whether checkpoints of a whole run hold moments in bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eight_bit, "LEAST_VALUES", 1)  # these models are small
        whole_run(lab, values)
    folder = run_folder(lab, values)
    return any(
        tensor.dtype is torch.uint8
        for file in folder.rglob("optimizer.safetensors")
        for tensor in load_file(file).values()
    )


def scores(lab: Lab, values: Values) -> Any:
    """What the first stage's first rule chooses by, best first."""
    kit = lab.open(values)
    stage = kit.recipe.stages[0]
    sites = kit.base.sites(kit.base.network(kit.data.fitted, device=CPU))
    (rule, *_) = stage.strategy
    return kit.chooser(stage).scores(sites, rule, rule.candidates(sites.view))


def answers(lab: Lab, values: Values) -> Any:
    """What the network answers on dev after the last stage."""
    kit, entered = trained(lab, values)
    dev = {name: kit.data.tasks[name].dev for name in entered.tasks if name == "main"}
    entered.network.eval()
    found = answer_all(
        entered.network, kit.data.fitted, dev, pad=kit.tokenizer.pad, budget=4096, dtype=torch.float32
    )
    return [answer.to_json() for answer in found.answers["main"]]


def products(lab: Lab, values: Values) -> int:
    """How often a linear module of the trunk is computed in a whole run."""
    count = 0

    def noted(module: torch.nn.Module, _inputs: Any, _outputs: Any) -> None:
        nonlocal count
        count += isinstance(module, torch.nn.Linear)

    hook = torch.nn.modules.module.register_module_forward_hook(noted)
    try:
        whole_run(lab, values)
    finally:
        hook.remove()
    return count


def dev_rows(lab: Lab, values: Values) -> Any:
    """How many dev rows each evaluation while training judges, and how many the end does."""
    quick = {**values, "precision": "fp32", "bootstrap": 100}
    stage = {
        **values["stages"][0],
        "strategy": "head" if values["model"]["path"] == "bert" else "top 1",
        "length": "1 steps",
    }
    seen: list[Any] = []
    recipe = Recipe.model_validate({**quick, "stages": [stage]}, context=catalogue())
    for event in run(recipe, RunFolder(run_folder(lab, values)), root=lab.root, overwrite=True):
        if isinstance(event, Evaluated):
            seen.append([(task.task, task.scores[0].metric, task.scores[0].n) for task in event.report.tasks])
        elif isinstance(event, Finished):
            seen.append([(task.task, task.scores[0].n) for task in event.report.final[0].tasks])
    return seen


def replies(lab: Lab, values: Values) -> Any:
    """What an encoder-decoder reads, and what its decoder is given."""
    train = lab.open(dict(values)).data.tasks["main"].train
    return [(one.tokens, one.reply and one.reply.tokens) for one in train]


def run_folder(lab: Lab, values: Values) -> Path:
    return lab.root / "runs" / hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def whole_run(lab: Lab, values: Values) -> Any:
    """What a run leaves and tells: stages, evaluations, checkpoints, scores and intervals, final weights."""
    folder = run_folder(lab, values)
    seen: list[Any] = []
    recipe = Recipe.model_validate(values, context=catalogue())
    for event in run(recipe, RunFolder(folder), root=lab.root, overwrite=True):
        match event:
            case Evaluated():
                seen.append(("evaluated", event.report.step))
            case Saved():
                seen.append(("saved", event.step, sum(one.is_dir() for one in event.path.parent.iterdir())))
            case Finished():
                scores = [score.model_dump() for task in event.report.final[0].tasks for score in task.scores]
                seen.append([(one.name, one.stopped, one.steps) for one in event.report.stages])
                seen.append(scores)
            case _:
                pass
    for file in sorted((folder / "bundle").rglob("*.safetensors")):
        seen.append((file.name, hashlib.sha256(file.read_bytes()).hexdigest()))
    return seen


def final_answers(lab: Lab, values: Values) -> Any:
    """What a run answers at its end, with probabilities."""
    whole_run(lab, values)
    files = sorted((run_folder(lab, values) / "predictions").rglob("main.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [line["answer"] for line in lines if "answer" in line]


# --------------------------------------------------------------------------------- recipes to start from


def task(kind: str, **keys: Any) -> Values:
    return {"kind": kind, "train": "all.jsonl[:12]", "dev": "all.jsonl[12:]", **keys}


def recipe_of(kind: str = "classification", **keys: Any) -> Values:
    """Return a recipe with a task ``main`` of ``kind`` and one beside it."""
    model = "causal" if kind == "generation" else "bert"
    return {
        "model": {"path": model, "max_tokens": 64},
        "tasks": {"main": task(kind, **keys), "beside": task("classification")},
        "stages": [{"name": "one", "length": "2 steps", "batch": 6}],
    }


def translating() -> Values:
    """Return a recipe whose task ``main`` says in which languages it reads and writes."""
    values = recipe_of("generation", source_language="en_XX", target_language="zh_CN")
    return put(values, "model/path", "translator")


def uneven(**keys: Any) -> Values:
    """Return a recipe whose first label has more training rows than its second."""
    return recipe_of(train="all.jsonl[:11]", **keys)


def short_rows(kind: str = "classification") -> Values:
    """Return a recipe whose texts are longer than the rows of its trunk."""
    return put(recipe_of(kind, columns={"text": "other_text"}), "model/max_tokens", 8)


def short_answers(**keys: Any) -> Values:
    """Return a recipe whose task ``main`` generates a few tokens."""
    return recipe_of("generation", max_new_tokens=12, **keys)


def two_stages(**carry: str) -> Values:
    second = {"name": "two", "strategy": "lora", "length": "2 steps", "batch": 6, "carry": carry}
    values = recipe_of()
    values["stages"] = [{"name": "one", "strategy": "lora", "length": "2 steps", "batch": 6}, second]
    return values


def soup() -> Values:
    """Return a recipe whose last stage starts from two branches."""
    values = recipe_of()
    values["stages"] = [
        {"name": "one", "length": "2 steps", "batch": 6},
        {"name": "two", "parent": "base", "strategy": "lora", "length": "2 steps", "batch": 6},
        {"name": "both", "parent": ["one", "two"], "strategy": "head", "length": "1 step", "batch": 6},
    ]
    return values


def short_run(kind: str = "regression") -> Values:
    """Return a recipe whose run is quick: only a head moves, and it is judged after every step."""
    values = recipe_of(kind, dev="all.jsonl")
    del values["tasks"]["beside"]
    stage = {"strategy": "head", "length": "4 steps", "evaluate": "2 steps", "save": "1 steps", "lr": 1e-9}
    values["stages"] = [{"name": "one", "batch": 6, **stage}]
    return {**values, "precision": "fp32", "bootstrap": 100}


def with_dropout() -> Values:
    """Return a recipe in which dropout acts in frozen layers, or not where their states are reused."""
    values = short_run()
    values["stages"][0] |= {"strategy": "top 1", "dropout": 0.5, "lr": 1e-2}
    return values


def put(values: Values, path: str, value: Any) -> Values:
    """Return a copy of ``values`` with ``value`` at ``path``."""
    changed = copy.deepcopy(values)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    at: Any = changed
    for step in parents:
        at = at.setdefault(step, {}) if isinstance(at, dict) else at[step]
    at[last] = value
    return changed


@dataclass(frozen=True)
class Case:
    """Two recipes that differ in one key, and the way to look that tells them apart."""

    look: Callable[[Lab, Values], Any]
    a: Values
    b: Values


def change(
    look: Callable[[Lab, Values], Any], path: str, a: Any, b: Any, start: Values | None = None
) -> Case:
    values = recipe_of() if start is None else start
    return Case(look, put(values, path, a), put(values, path, b))


def of_family(kind: str, other: str, other_columns: Values) -> dict[str, Case]:
    """Return the cases of the keys that every family has."""

    def main(look: Callable[[Lab, Values], Any], key: str, a: Any, b: Any) -> Case:
        return change(look, f"tasks/main/{key}", a, b, recipe_of(kind))

    return {
        f"{kind}.kind": main(rows, "kind", kind, other),
        f"{kind}.train": main(rows, "train", "all.jsonl[:12]", "all.jsonl[:11]"),
        f"{kind}.dev": main(rows, "dev", "all.jsonl[12:]", []),
        f"{kind}.test": main(rows, "test", [], "all.jsonl[8:12]"),
        f"{kind}.columns": main(rows, "columns", {}, other_columns),
        f"{kind}.weight": main(weights, "weight", 1, 3),
        f"{kind}.judge": main(dev_rows, "judge", None, 2),
    }


def of_decoding(key: str, a: Any, b: Any, **beside: Any) -> Case:
    """Return the case of one key of how a task decodes."""
    return change(answers, f"tasks/main/decoding/{key}", a, b, short_answers(decoding=beside))


NEEDED = {"peft": {"method": "LOHA", "options": {"r": 2}}}
"""What a rule of a method cannot be without."""


def of_rule(
    train_by: str, key: str, a: Any, b: Any, look: Callable[[Lab, Values], Any], sites: str = "layers[0].ffn"
) -> Case:
    """Return the case of a rule's key; a second rule sees to it that something moves."""
    values = recipe_of()
    rules = [{"sites": "all", "train": "full"}] if train_by == "none" else []
    rules.append({"sites": sites, "train": train_by, **NEEDED.get(train_by, {})})
    values["stages"][0]["strategy"] = rules
    return change(look, f"stages/0/strategy/{len(rules) - 1}/{key}", a, b, values)


def to_fuse() -> Values:
    """Return a recipe whose last stage weighs the adapters of two others."""
    values = soup()
    for stage in values["stages"]:
        stage["strategy"] = [{"train": "adapter", "size": 2}]
    both = {"combine": "union", "carry": {"trunk": "stack"}, "strategy": [{"train": "fusion"}]}
    values["stages"][2] |= both
    return values


def fused(key: str, a: Any, b: Any, look: Callable[[Lab, Values], Any]) -> Case:
    """Return the case of a key of a fusion."""
    return change(look, f"stages/2/strategy/0/{key}", a, b, to_fuse())


def of_method(
    name: str, other: str, here: str = "layers[0].ffn", there: str = "layers[1].ffn"
) -> dict[str, Case]:
    """Return the cases of the keys that every rule has which trains something."""
    return {
        f"{name}.sites": of_rule(name, "sites", here, there, or_refused),
        f"{name}.train": of_rule(name, "train", name, other, tables, here),
        f"{name}.lr": of_rule(name, "lr", 1e-4, 2e-4, weights, here),
        f"{name}.layer_decay": of_rule(name, "layer_decay", 1.0, 0.5, tables, here),
        f"{name}.since": of_rule(name, "since", 0.0, 0.5, tables, here),
    }


ONE_RULE = [{"sites": "layers[0].ffn", "train": "full"}]
FAMILIES = {
    **of_family("classification", "regression", {"text": "other_text"}),
    **of_family("regression", "classification", {"score": "other_score"}),
    **of_family("ordinal", "classification", {"label": "label"}),
    **of_family("choice", "classification", {"choices": "other_choices"}),
    **of_family("tagging", "classification", {"tokens": "other_tokens"}),
    **of_family("qa", "classification", {"context": "other_context"}),
    "qa.stride": change(rows, "tasks/main/stride", 4, 16, recipe_of("qa")),
    "qa.max_answer_tokens": change(answers, "tasks/main/max_answer_tokens", 1, 30, recipe_of("qa")),
    **of_family("generation", "classification", {"output": "other_output"}),
    "classification.labels": change(rows, "tasks/main/labels", ["1", "2"], ["2", "1"]),
    "classification.multi_label": change(weights, "tasks/main/multi_label", False, True),
    "classification.threshold": change(
        answers, "tasks/main/threshold", 0.001, 0.999, recipe_of(multi_label=True)
    ),
    "classification.balance": change(draws, "tasks/main/balance", "none", "sampling", uneven()),
    "classification.beta": change(weights, "tasks/main/beta", 0.1, 0.99, uneven(balance="effective")),
    "classification.metric": change(
        dev_rows, "tasks/main/metric", "accuracy", "mcc", short_run("classification")
    ),
    "classification.calibration": change(
        whole_run,
        "tasks/main/calibration",
        "temperature",
        "none",
        put(short_run("classification"), "stages/0/lr", 0.5),
    ),
    "classification.loss": change(weights, "tasks/main/loss", "cross_entropy", "focal"),
    "classification.gamma": change(weights, "tasks/main/gamma", 1.0, 4.0, recipe_of(loss="focal")),
    "classification.smoothing": change(weights, "tasks/main/smoothing", 0.0, 0.2),
    "tagging.balance": change(weights, "tasks/main/balance", "none", "weights", recipe_of("tagging")),
    "tagging.beta": change(weights, "tasks/main/beta", 0.1, 0.99, recipe_of("tagging", balance="effective")),
    "tagging.loss": change(weights, "tasks/main/loss", "cross_entropy", "focal", recipe_of("tagging")),
    "tagging.gamma": change(weights, "tasks/main/gamma", 1.0, 4.0, recipe_of("tagging", loss="focal")),
    "tagging.smoothing": change(weights, "tasks/main/smoothing", 0.0, 0.2, recipe_of("tagging")),
    "classification.pooling": change(weights, "tasks/main/pooling", "cls", "mean"),
    "classification.windows": change(rows, "tasks/main/windows", None, "mean", short_rows()),
    "regression.windows": change(rows, "tasks/main/windows", None, "mean", short_rows("regression")),
    "ordinal.labels": change(
        rows, "tasks/main/labels", ["1", "2", "3"], ["3", "2", "1"], recipe_of("ordinal")
    ),
    "ordinal.pooling": change(weights, "tasks/main/pooling", "cls", "mean", recipe_of("ordinal")),
    "ordinal.windows": change(rows, "tasks/main/windows", None, "mean", short_rows("ordinal")),
    "ordinal.calibration": change(
        final_answers,
        "tasks/main/calibration",
        "temperature",
        "none",
        put(short_run("ordinal"), "stages/0/lr", 0.5),
    ),
    "choice.calibration": change(
        whole_run,
        "tasks/main/calibration",
        "temperature",
        "none",
        put(short_run("choice"), "stages/0/lr", 0.5),
    ),
    "choice.pooling": change(weights, "tasks/main/pooling", "cls", "mean", recipe_of("choice")),
    "windows.pooling": change(weights, "tasks/main/windows/pooling", "mean", "max", short_rows()),
    "windows.stride": change(rows, "tasks/main/windows/stride", 0, 3, short_rows()),
    "windows.most": change(rows, "tasks/main/windows/most", 1, 2, short_rows()),
    "regression.pooling": change(weights, "tasks/main/pooling", "cls", "mean", recipe_of("regression")),
    "tagging.labels": change(
        rows, "tasks/main/labels", ["O", "B-X", "I-X"], ["B-X", "I-X", "O"], recipe_of("tagging")
    ),
    "tagging.scheme": change(rows, "tasks/main/scheme", "bio", "plain", recipe_of("tagging")),
    "tagging.repair": change(rows, "tasks/main/repair", True, False, recipe_of("tagging")),
    "generation.max_new_tokens": change(answers, "tasks/main/max_new_tokens", 1, 6, recipe_of("generation")),
    "generation.decoding": change(answers, "tasks/main/decoding", {}, {"beams": 3}, short_answers()),
    "generation.metrics": change(dev_rows, "tasks/main/metrics", "bleu", "chrf", short_answers()),
    "decoding.beams": of_decoding("beams", 1, 3),
    "decoding.length_penalty": of_decoding("length_penalty", -9, 9, beams=4, stop=["a"]),
    "decoding.temperature": of_decoding("temperature", 0, 2.0),
    "decoding.top_k": of_decoding("top_k", 0, 1, temperature=2.0),
    "decoding.top_p": of_decoding("top_p", 1.0, 0.01, temperature=2.0),
    "decoding.repetition_penalty": of_decoding("repetition_penalty", 1.0, 5.0),
    "decoding.no_repeat_ngram": of_decoding("no_repeat_ngram", 0, 1),
    "decoding.stop": of_decoding("stop", [], ["a", "e"]),
    "decoding.seed": of_decoding("seed", 0, 1, temperature=2.0),
    "decoding.samples": change(
        answers,
        "tasks/main/decoding/samples",
        1,
        2,
        short_answers(decoding={"temperature": 1.0}, metrics="pass@1", execute=True),
    ),
    "generation.template": change(
        rows, "tasks/main/template", "{instruction}", "Q: {instruction} A:", recipe_of("generation")
    ),
    "generation.source_language": change(
        replies, "tasks/main/source_language", "en_XX", "de_DE", translating()
    ),
    "generation.target_language": change(
        replies, "tasks/main/target_language", "zh_CN", "de_DE", translating()
    ),
    "generation.learn": change(weights, "tasks/main/learn", "answers", "all", recipe_of("generation")),
}
RULES = {
    "none.sites": of_rule("none", "sites", "layers[0]", "layers[1]", tables),
    "none.train": of_rule("none", "train", "none", "full", tables),
    **of_method("full", "lora"),
    "full.gradual": of_rule("full", "gradual", 0.0, 0.5, tables),
    **of_method("lisa", "lora"),
    "lisa.layers": of_rule("lisa", "layers", 1, 2, tables),
    "lisa.every": of_rule("lisa", "every", 1, 2, tables),
    **of_method("dora", "lora"),
    "dora.rank": of_rule("dora", "rank", 2, 3, tables),
    "dora.alpha": of_rule("dora", "alpha", 2, 40, weights),
    "dora.rslora": of_rule("dora", "rslora", False, True, weights),
    "dora.dropout": of_rule("dora", "dropout", 0.0, 0.5, weights),
    "dora.lr_ratio": of_rule("dora", "lr_ratio", 1.0, 16.0, tables),
    **of_method("mtl-lora", "lora"),
    "mtl-lora.rank": of_rule("mtl-lora", "rank", 2, 3, tables),
    "mtl-lora.alpha": of_rule("mtl-lora", "alpha", 2, 40, weights),
    "mtl-lora.up_projections": of_rule("mtl-lora", "up_projections", 2, 3, tables),
    "mtl-lora.temperature": of_rule("mtl-lora", "temperature", 0.1, 10.0, weights),
    "mtl-lora.dropout": of_rule("mtl-lora", "dropout", 0.0, 0.5, weights),
    **of_method("gated-lora", "lora"),
    "gated-lora.per_task": of_rule("gated-lora", "per_task", False, True, tables),
    "gated-lora.rank": of_rule("gated-lora", "rank", 2, 3, tables),
    "gated-lora.dropout": of_rule("gated-lora", "dropout", 0.0, 0.5, weights),
    **of_method("hybrid-lora", "lora"),
    "hybrid-lora.rank": of_rule("hybrid-lora", "rank", 2, 3, tables),
    "hybrid-lora.alpha": of_rule("hybrid-lora", "alpha", 2, 40, weights),
    "hybrid-lora.rslora": of_rule("hybrid-lora", "rslora", False, True, weights),
    "hybrid-lora.dropout": of_rule("hybrid-lora", "dropout", 0.0, 0.5, weights),
    "hybrid-lora.lr_ratio": of_rule("hybrid-lora", "lr_ratio", 1.0, 16.0, tables),
    "hybrid-lora.init": of_rule("hybrid-lora", "init", "random", "pissa", weights),
    "hybrid-lora.per_task": of_rule("hybrid-lora", "per_task", False, True, tables),
    "hybrid-lora.share": of_rule("hybrid-lora", "share", 0.1, 0.5, tables, "linear"),
    "hybrid-lora.batches": of_rule("hybrid-lora", "batches", 1, 4, scores, "linear"),
    "hybrid-lora.full_lr": of_rule("hybrid-lora", "full_lr", 1e-5, 1e-4, tables),
    **of_method("ia3", "lora"),
    "ia3.per_task": of_rule("ia3", "per_task", False, True, tables),
    **of_method("adapter", "lora"),
    "adapter.per_task": of_rule("adapter", "per_task", False, True, tables),
    "adapter.form": of_rule("adapter", "form", "pfeiffer", "parallel", weights, "layers[0].ffn.down"),
    "adapter.size": of_rule("adapter", "size", 2, 3, tables),
    "adapter.activation": of_rule("adapter", "activation", "relu", "tanh", weights),
    "fusion.sites": fused("sites", "layers[0]", "layers[1]", tables),
    "fusion.train": change(
        tables, "stages/2/strategy", [{"train": "fusion"}], [{"sites": "ffn", "train": "lora"}], to_fuse()
    ),
    "fusion.lr": fused("lr", 1e-4, 2e-4, weights),
    "fusion.layer_decay": fused("layer_decay", 1.0, 0.5, tables),
    "fusion.since": fused("since", 0.0, 0.5, tables),
    "fusion.per_task": fused("per_task", False, True, tables),
    "adapter.gate": of_rule("adapter", "gate", False, True, tables),
    **{key: case for key, case in of_method("peft", "full").items() if key != "peft.train"},
    "peft.train": change(
        tables,
        "stages/0/strategy",
        [{"sites": "layers[0].ffn", "train": "peft", "method": "LOHA"}],
        [{"sites": "layers[0].ffn", "train": "lora"}],
    ),
    "peft.per_task": of_rule("peft", "per_task", False, True, tables),
    "peft.method": of_rule("peft", "method", "LOHA", "LOKR", tables),
    "peft.options": of_rule("peft", "options", {"r": 2}, {"r": 3}, tables),
    "adapter.scale": of_rule("adapter", "scale", 1.0, 3.0, weights),
    **of_method("prompt", "lora", "embeddings.word", "embeddings.position"),
    "prompt.per_task": of_rule("prompt", "per_task", False, True, tables, "embeddings"),
    "prompt.tokens": of_rule("prompt", "tokens", 2, 3, tables, "embeddings"),
    "prompt.init": of_rule("prompt", "init", "vocab", "random", weights, "embeddings"),
    **of_method("prefix", "lora", "layers[0].attention", "layers[1].attention"),
    "prefix.per_task": of_rule("prefix", "per_task", False, True, tables, "kv"),
    "prefix.tokens": of_rule("prefix", "tokens", 2, 3, tables, "kv"),
    "prefix.projection": of_rule("prefix", "projection", 3, 4, tables, "kv"),
    "prefix.gate": of_rule("prefix", "gate", False, True, weights, "kv"),
    **of_method("lora", "full"),
    "lora.per_task": of_rule("lora", "per_task", False, True, tables),
    "lora.rslora": of_rule("lora", "rslora", False, True, weights),
    "lora.lr_ratio": of_rule("lora", "lr_ratio", 1.0, 16.0, tables),
    "lora.init": of_rule("lora", "init", "random", "pissa", weights),
    "lora.rank": of_rule("lora", "rank", 2, 3, tables),
    "lora.alpha": of_rule("lora", "alpha", 2, 40, weights),
    "lora.dropout": of_rule("lora", "dropout", 0.0, 0.5, weights),
}
CARRY = {
    "carry.trunk": Case(weights, two_stages(trunk="merge"), two_stages(trunk="drop")),
    "carry.heads": Case(weights, two_stages(heads="keep"), two_stages(heads="new")),
    "carry.optimizer": Case(
        whole_run, two_stages(trunk="continue"), two_stages(trunk="continue", optimizer="continue")
    ),
}
COMBINE = {
    "combine.method": change(weights, "stages/2/combine/method", "average", "arithmetic", soup()),
    "combine.weights": change(weights, "stages/2/combine/weights", {}, {"one": 3.0}, soup()),
    "combine.density": change(
        weights,
        "stages/2/combine",
        {"method": "ties", "density": 0.2},
        {"method": "ties", "density": 0.9},
        soup(),
    ),
}
MIXTURE = {
    "mixture.kind": change(draws, "stages/0/mixture/kind", "proportional", "round_robin"),
    "mixture.temperature": change(
        draws,
        "stages/0/mixture",
        {"kind": "temperature", "temperature": 1},
        {"kind": "temperature", "temperature": 9},
        recipe_of(train="all.jsonl[:3]"),
    ),
    "mixture.batches": change(draws, "stages/0/mixture/batches", "mixed", "homogeneous"),
}
STAGE = {
    "stage.name": change(draws, "stages/0/name", "one", "uno"),
    "stage.parent": change(weights, "stages/1/parent", "one", "base", two_stages()),
    "stage.combine": change(weights, "stages/2/combine", "average", "arithmetic", soup()),
    "stage.tasks": change(tables, "stages/0/tasks", ["main", "beside"], ["main"]),
    "stage.mixture": change(draws, "stages/0/mixture", "proportional", "round_robin"),
    "stage.strategy": change(tables, "stages/0/strategy", "full", "top 1"),
    "stage.carry": Case(weights, two_stages(), two_stages(trunk="drop")),
    "stage.length": change(weights, "stages/0/length", "1 step", "2 steps"),
    "stage.lr": change(weights, "stages/0/lr", 1e-4, 2e-4),
    "stage.batch": change(draws, "stages/0/batch", 4, 5),
    "stage.budget": change(passes, "stages/0/budget", 16, 4096),
    "stage.schedule": change(weights, "stages/0/schedule", "linear", "constant"),
    "stage.warmup": change(weights, "stages/0/warmup", 0.0, 0.5),
    "stage.decay": change(weights, "stages/0/decay", 0.0, 0.5),
    "stage.clip": change(weights, "stages/0/clip", 100.0, 1e-6),
    "stage.dropout": change(weights, "stages/0/dropout", 0.0, 0.5),
    "stage.reuse": change(whole_run, "stages/0/reuse", True, False, with_dropout()),
    "stage.activations": change(
        products,
        "stages/0/activations",
        "keep",
        "recompute",
        put(short_run(), "stages/0/strategy", "full"),
    ),
    "stage.compile": change(graphs, "stages/0/compile", False, True, short_run()),
    "stage.moments": change(
        in_bytes, "stages/0/moments", "fp32", "8-bit", put(short_run(), "stages/0/strategy", "full")
    ),
    "stage.evaluate": change(whole_run, "stages/0/evaluate", "2 steps", "4 steps", short_run()),
    "stage.patience": change(
        whole_run, "stages/0/patience", None, 1, put(short_run(), "stages/0/evaluate", "1 step")
    ),
    "stage.save": change(whole_run, "stages/0/save", "1 steps", "3 steps", short_run()),
}
REST = {
    "recipe.seed": change(weights, "seed", 0, 1),
    "recipe.data_root": change(rows, "data_root", None, "shelf"),
    "recipe.model": change(weights, "model", "bert", "bert2"),
    "recipe.tasks": change(
        tables, "tasks/more", task("regression"), task("classification", labels=["1", "2", "3"])
    ),
    "recipe.stages": Case(tables, recipe_of(), two_stages()),
    "recipe.precision": change(weights, "precision", "fp32", "bf16"),
    "recipe.keep": change(whole_run, "keep", 1, 3, short_run()),
    "recipe.bootstrap": change(whole_run, "bootstrap", 100, 150, short_run()),
    "model.path": change(weights, "model/path", "bert", "bert2"),
    "model.init": change(weights, "model/init", "pretrained", "random"),
    "model.revision": change(
        weights, "model", {"path": "owner/hub", "revision": "a"}, {"path": "owner/hub", "revision": "b"}
    ),
    "model.quantize": change(
        weights, "model/quantize", None, "int8", put(recipe_of(), "stages/0/strategy", "lora")
    ),
    "model.adapters": change(weights, "model/adapters", {}, {"given": "given"}),
    "model.max_tokens": change(rows, "model/max_tokens", 64, 8),
}
CASES = {**REST, **STAGE, **MIXTURE, **COMBINE, **CARRY, **FAMILIES, **RULES}


# ------------------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def lab(
    tiny_bert: Path, stories260k: Path, tiny_translator: Path, tmp_path_factory: pytest.TempPathFactory
) -> Lab:
    root = tmp_path_factory.mktemp("every_key")
    (root / "bert").symlink_to(tiny_bert)
    (root / "causal").symlink_to(stories260k)
    (root / "translator").symlink_to(tiny_translator)
    other_model(tiny_bert, root / "bert2")
    adapter_of(tiny_bert, root / "given")
    lines = [json.dumps(one) + "\n" for one in records()]
    (root / "all.jsonl").write_text("".join(lines), encoding="utf-8")
    (root / "shelf").mkdir()
    (root / "shelf" / "all.jsonl").write_text("".join(reversed(lines)), encoding="utf-8")
    path = Path(__file__).parent / "build" / "kit.py"
    spec = importlib.util.spec_from_file_location("weft_every_key_kit", path)
    assert spec is not None
    assert spec.loader is not None
    kit = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = kit
    spec.loader.exec_module(kit)
    torch.set_num_threads(1)
    return Lab(kit, root)


def adapter_of(model: Path, folder: Path) -> None:
    """Write a LoRA of PEFT's on ``model``."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    config = LoraConfig(target_modules=["query"], init_lora_weights=False)
    with warnings.catch_warnings(action="ignore"):  # PEFT asks under an old name
        get_peft_model(AutoModel.from_pretrained(model), config).save_pretrained(folder)


def other_model(model: Path, folder: Path) -> None:
    """Write a model like ``model`` with other weights."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model / "model.safetensors")
    save_file(
        {name: tensor * 1.5 for name, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def records() -> list[Values]:
    """Return 16 rows of every kind: a text of two columns, a label, a score, tags that break their scheme, answers."""
    words = ("good", "bad", "film", "cat", "paris", "john", "one", "two")
    found: list[Values] = []
    for number in range(16):
        text = [words[number % 8], words[(3 * number + 1) % 8], words[(number // 2) % 8]] * (1 + number % 3)
        found.append(
            {
                "text": " ".join(text),
                "other_text": " ".join(reversed(text)) + " more",
                "label": 1 + number % 2,
                "score": number / 2,
                "other_score": number / 3,
                "stars": 1 + number % 3,
                "choices": text[:2],
                "other_choices": text[1:3],
                "tokens": text,
                "other_tokens": text[::-1],
                "tags": (["B-X", "I-X", "O"] if number % 4 else ["I-X", "O", "O"]) * (1 + number % 3),
                "instruction": f"say {text[0]}",
                "output": text[1],
                "other_output": text[2],
                "tests": ["assert True"],
                "question": f"what is {text[0]}",
                "context": " ".join([*text, *words * 10, "the end"]),
                "other_context": " ".join(["the end", *words * 9, *text]),
                "answers": [{"text": "the end"}],
            }
        )
    return found


@pytest.fixture
def hub(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand for the Hub: ``owner/hub`` has two commits."""
    commits = {"a": lab.root / "bert", "b": lab.root / "bert2"}

    def snapshot(name: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert name == "owner/hub"
        return str(commits[revision].resolve())

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)


def test_every_key_has_a_case() -> None:
    keys = all_keys()
    assert len(keys) > 70
    assert CASES.keys() | SETTLED == keys
    assert not CASES.keys() & SETTLED


@pytest.mark.parametrize("look", sorted({case.look for case in CASES.values()}, key=lambda one: one.__name__))
def test_no_way_of_looking_sees_a_difference_where_there_is_none(lab: Lab, look: Any) -> None:
    values = (
        short_run()
        if look in (whole_run, final_answers)
        else recipe_of("generation" if look is answers else "classification")
    )
    if look is scores:
        values = put(values, "stages/0/strategy", [{"train": "hybrid-lora"}])
    assert look(lab, values) == lab.look(look, copy.deepcopy(values))


@pytest.mark.parametrize("key", sorted(CASES))
@pytest.mark.usefixtures("hub")
def test_changing_the_key_changes_something(lab: Lab, key: str) -> None:
    case = CASES[key]
    assert lab.look(case.look, case.a) != lab.look(case.look, case.b)


def test_a_rate_on_what_does_not_move_is_refused(lab: Lab) -> None:
    values = recipe_of()
    values["stages"][0]["strategy"] = [{"train": "none", "lr": 1e-3}]
    with pytest.raises(ValueError, match="lr"):
        lab.open(values)
