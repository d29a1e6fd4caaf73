"""Rows as estimates see them: lengths, virtual positions by task, and who passes through which adapter."""

from __future__ import annotations

import json

import pytest

from weft.build.order import foresee, order_of
from weft.build.rows import adapter_shares, rows_of, virtual_share


def known(opened):
    spec = opened.recipe.stage("one")
    entered = opened.enter("one")
    order = order_of(opened.recipe, spec, opened.data, by_length=False)
    return entered, rows_of(entered, order, opened.data), foresee(spec.length, order)


def test_virtual_positions_are_those_of_a_tasks_own_adapters_and_of_shared_ones(open_kit):
    opened = open_kit(
        [
            {
                "name": "one",
                "strategy": [
                    {"train": "prompt", "tokens": 3, "per_task": True},
                    {"train": "prefix", "tokens": 2, "sites": "layers[1].attention"},
                ],
                "length": "1 epoch",
            }
        ]
    )
    _, rows, end = known(opened)
    assert {task: (one.virtual, dict(one.keys)) for task, one in rows.items()} == dict.fromkeys(
        ("mood", "names"), (3, {"layers.1.attention": 2})
    )
    tokens = {task: [len(row.tokens) for row in opened.data.tasks[task].train] for task in ("mood", "names")}
    for task, lengths in tokens.items():
        assert (rows[task].tokens, rows[task].count) == (pytest.approx(sum(lengths) / len(lengths)), 1.0)
    assert virtual_share(rows, end) == pytest.approx(3 * (12 + 6) / sum(map(sum, tokens.values())))


def test_a_prefix_with_a_gate_takes_no_position(open_kit):
    opened = open_kit([{"name": "one", "strategy": [{"train": "prefix", "tokens": 2, "gate": True}]}])
    _, rows, end = known(opened)
    assert {(one.virtual, *one.keys.values()) for one in rows.values()} == {(0, 0, 0)}
    assert virtual_share(rows, end) == 0.0


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ({"train": "lora", "rank": 2, "per_task": True}, ("one-mood", "one-names")),
        ({"train": "mtl-lora", "rank": 2}, ("one",)),
        ({"train": "lora", "rank": 2}, ()),
    ],
)
def test_tokens_pass_through_the_adapters_that_their_rows_choose(open_kit, rule, names):
    opened = open_kit([{"name": "one", "strategy": [rule], "length": "1 epoch"}])
    entered, rows, end = known(opened)
    shares = adapter_shares(entered, rows, end)
    assert tuple(shares) == names
    assert sum(shares.values()) == pytest.approx(1.0 if names else 0.0)
    if len(names) > 1:
        lengths = [
            sum(len(row.tokens) for row in opened.data.tasks[task].train) for task in ("mood", "names")
        ]
        assert list(shares.values()) == pytest.approx([length / sum(lengths) for length in lengths])


def test_what_passes_at_once_is_a_text_or_an_example_that_cannot_be_divided(open_kit, kit, tmp_path):
    """A long context is many windows: each may pass alone to be learnt. Windows of a document may not."""
    long = "the cat sleeps in berlin and the dog eats in paris " * 12
    questions = [{"question": "who sleeps", "context": f"mary rests. {long}", "answers": ["mary"]}] * 2
    moods = [{"text": long, "label": "good"}, {"text": "a bad film", "label": "bad"}]
    for name, rows in (("q", questions), ("m", moods)):
        lines = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    tasks = {
        name: {
            "kind": kind,
            "train": str(tmp_path / f"{name}.jsonl"),
            "dev": str(tmp_path / f"{name}.jsonl"),
            **more,
        }
        for name, kind, more in (("q", "qa", {"stride": 4}), ("m", "classification", {"windows": "mean"}))
    }
    opened = open_kit([{"name": "one", "strategy": "full", "budget": 64}], tasks)
    _, rows, _ = known(opened)
    for name, one in rows.items():
        examples = opened.data.tasks[name].train
        assert one.longest == max(len(text.tokens) for example in examples for text in example.texts)
    assert rows["q"].whole == rows["q"].longest
    assert rows["m"].whole == max(example.num_tokens for example in opened.data.tasks["m"].train)
    assert rows["m"].whole >= 5 * rows["m"].longest
