"""The table of families: recipes that decode, files cut apart, spans read as gold has them."""

from __future__ import annotations

import json

import pytest
from bench.families import SETS, Set, table, write_files
from bench.judge import micro_f1, question_f1
from bench.order import Figures, Lap, Score
from bench.peers.reading import Choices, ManyLabels, Questions
from transformers import AutoTokenizer

from weft.model.folder import locate
from weft.recipe.yaml import parse
from weft.task.registry import FAMILIES


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(locate("minilm", None, root=tmp_path_factory.mktemp("x")).path)


def figures(value, *, seconds=2.0):
    score = Score("a", "f1", value, value - 0.05, value + 0.05, 100)
    return Figures((Lap("training", seconds, 5),), (score,), 7.0)


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_a_task_of_its_family(name):
    about = SETS[name]
    options = f", {about.options}" if about.options else ""
    values = parse(f"{{kind: {about.kind}, train: x.jsonl{options}}}", "x.yaml").data
    assert FAMILIES[about.kind].spec_type.model_validate(values).kind == about.kind


def test_a_set_is_in_the_table_once_both_have_done_it():
    found = {("a", "weft", 9, 0): figures(0.8), ("a", "trainer", 9, 0): figures(0.7, seconds=4.0)}
    found[("b", "weft", 9, 0)] = figures(0.8)
    lines = table(found, ["a", "b"]).splitlines()
    assert lines[2:] == ["| a | f1 | 100 | 9 | 0.700 [0.650, 0.750] | 0.800 [0.750, 0.850] | better | 4, 2 |"]


def test_rows_to_train_on_and_to_look_at_are_others(tmp_path):
    source = tmp_path / "set"
    source.mkdir()
    rows = [{"text": f"t{index}", "label": "a"} for index in range(150)]
    for name in ("train", "dev"):
        (source / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    write_files(source, tmp_path / "home", Set("classification", 100, most_test=7), 100)
    sizes = [
        len((tmp_path / "home" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        for name in ("train", "dev", "test")
    ]
    assert sizes == [100, 50, 7]


def test_spans_are_found_in_the_window_that_holds_them(tokenizer):
    context = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen. " * 3
    start = context.rindex("eleven")
    row = {
        "question": "which?",
        "context": context,
        "answers": {"text": ["eleven twelve"], "answer_start": [start]},
    }
    job = Questions(tokenizer, [row], 32)
    encoded = job.encode([row])
    assert len(encoded) > 1
    held = [one for one in encoded if one["start_positions"]]
    assert held
    for one in held:
        span = one["input_ids"][one["start_positions"] : one["end_positions"] + 1]
        assert tokenizer.decode(span) == "eleven twelve"
    bare = {**row, "answers": {"text": [], "answer_start": []}}
    assert {one["start_positions"] for one in job.encode([bare])} == {0}


def test_choices_and_labels_are_encoded_as_their_models_want_them(tokenizer):
    row = {"premise": "it rains", "question": "effect", "choices": ["wet", "dry", "red"], "label": 1}
    (one,) = Choices(tokenizer, [row], 32).encode([row])
    assert len(one["input_ids"]) == 3
    assert one["labels"] == 1
    many = ManyLabels(tokenizer, [{"text": "x", "labels": ["b", "a"]}, {"text": "y", "labels": []}], 32)
    assert [one["labels"] for one in many.encode([{"text": "x", "labels": ["b"]}])] == [[0.0, 1.0]]


def test_scores_are_read_as_weft_reads_them():
    assert question_f1("a", [["the red house"], ["x"]], ["red house", "y"]).value == pytest.approx(0.5)
    assert micro_f1("a", [["x"], ["y", "z"]], [["x"], ["y"]]).value == pytest.approx(0.8)
