"""Each kind of mistake, and that it is one problem."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Refused = Callable[..., tuple[str, ...]]

TEXT = """\
model: {model}
tasks: {tasks}
stages: {stages}
{rest}
"""
GOOD = {
    "model": "m",
    "tasks": "{a: {kind: classification, train: a.csv}}",
    "stages": "[{name: s}]",
    "rest": "",
}


@pytest.mark.parametrize(
    ("key", "value", "start"),
    [
        ("model", "{}", "r.yaml:1: model: must have the key 'path', but it is missing. Add it."),
        ("model", "[m]", "r.yaml:1: model: must be a mapping, but is a list."),
        ("model", "", "r.yaml:1: model: must be a mapping, but is empty."),
        ("model", "{path: m, max_tokens: 4}", "r.yaml:1: model.max_tokens: must be at least 8, but is 4."),
        ("model", "{path: m, max_tokens: 1e7}", "r.yaml:1: model.max_tokens: must be at most 1,000,000, but is 1e7."),
        ("model", "{path: m, max_tokens: 9.5}", "r.yaml:1: model.max_tokens: must be a whole number, but is 9.5."),
        ("model", "{path: m, maxtokens: 9}", "r.yaml:1: model.maxtokens: must be a key that exists here, but is not. Did you mean 'max_tokens'? Choices: adapters, init, max_tokens, path, quantize, revision."),
        ("tasks", "{}", "r.yaml:2: tasks: must have at least 1 element, but is a mapping."),
        ("tasks", "[a]", "r.yaml:2: tasks: must be a mapping, but is a list."),
        ("tasks", "{a: 3}", "r.yaml:2: tasks.a: must be a mapping with the key 'kind', but is 3."),
        ("tasks", "{a: {train: a}}", "r.yaml:2: tasks.a: must have the key 'kind', but it is missing. Choices: classification, tagging."),
        ("tasks", "{a: {kind: tagging}}", "r.yaml:2: tasks.a: must have the key 'train', but it is missing. Add it."),
        ("tasks", "{a: {kind: tagging, train: []}}", "r.yaml:2: tasks.a.train: must have at least 1 element, but is an empty list."),
        ("tasks", "{a: {kind: tagging, train: {x: y}}}", "r.yaml:2: tasks.a.train: must be a list, but is a mapping."),
        ("tasks", "{a: {kind: tagging, train: [x, {}]}}", "r.yaml:2: tasks.a.train.1: must be text, but is a mapping."),
        ("tasks", "{a: {kind: [tagging], train: x}}", "r.yaml:2: tasks.a.kind: must be one of its choices, but is a list."),
        ("tasks", "{a: {kind: tagging, train: x, scheme: bilou}}", "r.yaml:2: tasks.a.scheme: must be one of its choices, but is 'bilou'. Did you mean 'bio'? Choices: bio, bioes."),
        ("tasks", "{a: {kind: tagging, train: x, columns: {text: {title}}}}", "r.yaml:2: tasks.a.columns.text: must be a column, or several in quotes such as '{title}: {body}', but is a mapping."),
        ("tasks", "{a: {kind: tagging, train: x, labels: [b]}}", "r.yaml:2: tasks.a.labels: must be a key that exists here, but is not. Choices: columns,"),
        ("tasks", "{a: {kind: classification, train: x, labels: [b, b]}}", "r.yaml:2: tasks.a: labels must differ from each other, but one is given twice. Remove it."),
        ("tasks", "{a: {kind: classification, train: x, multi_label: maybe}}", "r.yaml:2: tasks.a.multi_label: must be true or false, but is 'maybe'."),
        ("tasks", "{a: {kind: tagging, train: x, weight: -0.5}}", "r.yaml:2: tasks.a.weight: must be at least 0, but is -0.5."),
        ("tasks", "{a.b: {kind: tagging, train: x}}", "r.yaml:2: tasks.a.b: must be 1-64 letters, digits, '_' or '-', start with a letter or digit and not be reserved, but is 'a.b'."),
        ("stages", "[]", "r.yaml:3: stages: must have at least 1 element, but is an empty list."),
        ("stages", "{s: {}}", "r.yaml:3: stages: must be a list, but is a mapping."),
        ("stages", "[{}]", "r.yaml:3: stages.0: must have the key 'name', but it is missing. Add it."),
        ("stages", "[s]", "r.yaml:3: stages.0: must be a mapping, but is 's'."),
        ("stages", "[{name: base}]", "r.yaml:3: stages.0.name: must be 1-64 letters,"),
        ("stages", "[{name: s, length: 3}]", "r.yaml:3: stages.0.length: must be a positive number"),
        ("stages", "[{name: s, length: 1.5 steps}]", "r.yaml:3: stages.0.length: must be a positive number (a whole one of steps"),
        ("stages", "[{name: s, tasks: {}, lr: 0}]", "r.yaml:3: stages.0.lr: must be more than 0, but is 0."),
        ("stages", "[{name: s, tasks: []}]", "r.yaml:3: stages.0.tasks: must name at least one task, and each once, but is an empty list."),
        ("stages", "[{name: s, tasks: [a, a]}]", "r.yaml:3: stages.0.tasks: must name at least one task, and each once, but is a list."),
        ("stages", "[{name: s, tasks: [[a]]}]", "r.yaml:3: stages.0.tasks.0: must be text, but is a list."),
        ("stages", "[{name: s, tasks: {a: -1}}]", "r.yaml:3: stages.0.tasks.a: must be at least 0, but is -1."),
        ("stages", "[{name: s, warmup: 1}]", "r.yaml:3: stages.0.warmup: must be less than 1, but is 1."),
        ("stages", "[{name: s, mixture: random}]", "r.yaml:3: stages.0.mixture: must be one of its choices, but is 'random'. Choices: fixed, proportional, round_robin, temperature, uniform."),
        ("stages", "[{name: s, mixture: {batches: all}}]", "r.yaml:3: stages.0.mixture.batches: must be one of its choices, but is 'all'."),
        ("stages", "[{name: s, strategy: {train: lora}}]", "r.yaml:3: stages.0.strategy: must be the name of a strategy, a selector or a list of rules, but is a mapping."),
        ("stages", "[{name: s, strategy: []}]", "r.yaml:3: stages.0.strategy: must have at least 1 element, but is an empty list."),
        ("stages", "[{name: s, strategy: [lora]}]", "r.yaml:3: stages.0.strategy.0: must be a mapping with the key 'train', but is 'lora'."),
        ("stages", "[{name: s, strategy: [{sites: ffn}]}]", "r.yaml:3: stages.0.strategy.0: must have the key 'train', but it is missing. Choices: full, lora, none."),
        ("stages", "[{name: s, strategy: [{train: lora, r: 8}]}]", "r.yaml:3: stages.0.strategy.0.r: must be a key that exists here, but is not."),
        ("stages", "[{name: s, strategy: [{train: full, rank: 8}]}]", "r.yaml:3: stages.0.strategy.0.rank: must be a key that exists here, but is not. Did you mean 'train'? Choices: layer_decay, lr, since, sites, train."),
        ("stages", "[{name: s, strategy: [{train: lora, scale: big}]}]", "r.yaml:3: stages.0.strategy.0.scale: must be a whole number or one of its choices, but is 'big'. Choices: auto."),
        ("stages", "[{name: s, carry: merge}]", "r.yaml:3: stages.0.carry: must be a mapping, but is 'merge'."),
        ("stages", "[{name: s, patience: 0}]", "r.yaml:3: stages.0.patience: must be at least 1, but is 0."),
        ("rest", "precision: fp16", "r.yaml:4: precision: must be one of its choices, but is 'fp16'. Did you mean 'bf16'? Choices: auto, bf16, fp32, medium."),
        ("rest", "seed: 99999999999999999999", "r.yaml:4: seed: must be less than 9.223372037e+18, but is 99999999999999999999."),
        ("rest", "bootstrap: 10", "r.yaml:4: bootstrap: must be at least 100, but is 10."),
        ("rest", "learning_rate: 3", "r.yaml:4: learning_rate: must be a key that exists here, but is not. Choices: bootstrap, data_root, keep,"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_problem(key: str, value: str, start: str, refused: Refused):
    text = TEXT
    for name, part in {**GOOD, key: value}.items():
        text = text.replace(f"{{{name}}}", part)
    problems = refused(text)
    assert len(problems) == 1, problems
    assert problems[0].startswith(start)


def test_the_keys_that_all_kinds_share_are_checked_though_the_kind_is_unknown(refused: Refused):
    problems = refused(
        "model: m\ntasks: {a: {kind: x, train: [], weight: -1, other: 3}}\nstages: [{name: s}]\n"
    )
    assert [problem.split(": ")[1] for problem in problems] == [
        "tasks.a.kind",
        "tasks.a.train",
        "tasks.a.weight",
    ]


def test_several_bad_rules_are_each_reported_and_nothing_else(refused: Refused):
    text = "model: m\ntasks: {a: {kind: tagging, train: a}}\nstages:\n  - name: s\n    strategy:\n"
    problems = refused(
        text + "      - {train: lora, rank: 0}\n      - {train: lor}\n      - {train: none, rank: 1}\n"
    )
    assert [problem.split(": ")[:2] for problem in problems] == [
        ["r.yaml:6", "stages.0.strategy.0.rank"],
        ["r.yaml:7", "stages.0.strategy.1.train"],
        ["r.yaml:8", "stages.0.strategy.2.rank"],
    ]
