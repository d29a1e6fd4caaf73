"""What is read, used and dropped, and why; what is held out; which texts are shared."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from weft.build.data import HELD_OUT, Data, read_data
from weft.build.order import order_of
from weft.core.example import Encoded
from weft.errors import DataError
from weft.model.folder import locate
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.report.records import SplitReport, TaskDataReport
from weft.run.judging import DEV, TEST, split_rows

STAGES = [{"name": "one"}]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> HFTokenizer:
    return load_tokenizer(locate(str(tiny_bert), None, root=tiny_bert), max_tokens=32)


@pytest.fixture
def reads(kit: ModuleType, tmp_path: Path, tiny_bert: Path, tokenizer: HFTokenizer) -> Any:
    """Return a function from task specs to their data; files are written with ``put``."""

    def read(seed: int = 0, **tasks: dict[str, Any]) -> Data:
        return read_data(kit.make_recipe(tiny_bert, STAGES, tasks, seed=seed), tokenizer, root=tmp_path)

    return read


def put(folder: Path, name: str, *lines: str) -> str:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def report_of(data: Data, task: str) -> TaskDataReport:
    return next(report for report in data.report.tasks if report.task == task)


def split_of(data: Data, task: str, split: str) -> SplitReport:
    return next(report for report in report_of(data, task).splits if report.split == split)


def mixed(folder: Path) -> str:
    return put(
        folder,
        "mixed.csv",
        "text,label,score",
        "a good film,pos,4.5",
        "a bad film,neg,",
        "a good  FILM,pos,4.0",
        ",pos,1.0",
        "the cat sleeps,,2.0",
        "one two three,neg,many",
        "paris is great,pos,5",
    )


def test_rows_are_counted_task_by_task_with_their_reasons(reads, tmp_path):
    name = mixed(tmp_path)
    dev = put(
        tmp_path, "dev.csv", "text,label,score", "a sad film,neg,1", "paris is great,pos,5", "old,odd,2"
    )
    data = reads(
        mood={"kind": "classification", "train": name, "dev": dev},
        stars={"kind": "regression", "train": name, "dev": dev},
    )
    mood = split_of(data, "mood", "train")
    assert (mood.read, mood.used) == (7, 5)
    assert mood.dropped == {"empty text": 1, "no label": 1}
    assert mood.labels == {"neg": 2, "pos": 3}
    assert mood.duplicates == 1  # the tokenizer reads good  FILM as good film
    assert mood.sources == (name,)
    stars = split_of(data, "stars", "train")
    assert (stars.read, stars.used) == (7, 4)
    assert sum(stars.dropped.values()) == 3
    assert stars.dropped["empty text"] == stars.dropped["no score"] == 1
    mood_dev = split_of(data, "mood", "dev")
    assert mood_dev.dropped == {"label not in the list": 1}
    assert (mood_dev.read, mood_dev.used, mood_dev.tokens_max) == (3, 2, 5)
    assert mood_dev.tokens_mean == 5  # [CLS] and [SEP] are counted
    assert report_of(data, "mood").overlap == {"train/dev": 1}
    assert report_of(data, "mood").columns == {"text": "text", "label": "label"}
    assert "mood: 1 texts of train/dev are equal; scores on them are not honest." in data.report.warnings
    dropped = "mood: 2 of 7 train rows are not used (1 empty text, 1 no label)."
    assert dropped in data.report.warnings


def test_rows_may_have_labels_for_some_tasks_only_and_share_their_texts(reads, tmp_path):
    name = mixed(tmp_path)
    data = reads(
        mood={"kind": "classification", "train": name, "dev": name},
        stars={"kind": "regression", "train": name, "dev": name},
        rest={
            "kind": "classification",
            "train": put(tmp_path, "x.csv", "text,label", "x,1", "y,2"),
            "dev": "x.csv",
        },
    )
    texts = {task: {example.tokens for example in data.tasks[task].train} for task in data.tasks}
    both = len(texts["mood"] & texts["stars"])
    assert both == 2  # a good film (twice), paris is great
    assert report_of(data, "mood").shared_with == {"stars": both}
    assert report_of(data, "stars").shared_with == {"mood": both}
    assert report_of(data, "rest").shared_with == {}
    assert data.tasks["mood"].source == data.tasks["stars"].source != data.tasks["rest"].source
    assert all(example.gold is not None for task in data.tasks.values() for example in task.train)


def test_truncation_is_reported_and_warned_of(reads, tmp_path):
    long = "the " * 40
    name = put(tmp_path, "a.csv", "text,label", f"{long},pos", "a film,neg", "a book,pos", "a cat,neg")
    data = reads(mood={"kind": "classification", "train": name, "dev": name})
    train = split_of(data, "mood", "train")
    assert train.cut_share == 0.25
    assert (train.tokens_max, train.tokens_p95) == (32, 32)
    assert train.tokens_mean == (32 + 4 * 3) / 4
    assert "mood: 25% of train rows are longer than model.max_tokens and were cut." in data.report.warnings


def test_cut_documents_and_questions_say_what_bounds_them(reads, tmp_path):
    long = "the " * 80
    name = put(tmp_path, "a.csv", "text,label", f"{long},pos", "a film,neg")
    windows = {"pooling": "mean", "most": 2}
    data = reads(mood={"kind": "classification", "train": name, "dev": name, "windows": windows})
    of_windows = "rows are longer than windows.most windows of model.max_tokens and were cut."
    assert f"mood: 50% of train {of_windows}" in data.report.warnings


def test_texts_that_the_vocabulary_does_not_have_are_warned_of(reads, tmp_path):
    name = put(tmp_path, "a.csv", "text,label", "שלום עולם,pos", "a good film,neg", "ספר טוב,neg", "ספר,pos")
    dev = put(tmp_path, "b.csv", "text,label", "a film,neg", "a cat,pos")
    data = reads(mood={"kind": "classification", "train": name, "dev": dev})
    train = split_of(data, "mood", "train")
    texts = [one.tokens for one in data.tasks["mood"].train]
    unknown = sum(ids.count(1) for ids in texts)  # [UNK]
    assert unknown == 5
    assert train.unknown_share == unknown / sum(map(len, texts))
    assert split_of(data, "mood", "dev").unknown_share == 0
    assert data.report.warnings[0] == (
        f"mood: many tokens are unknown to the model's vocabulary ({train.unknown_share:.0%} in train), so it cannot tell "
        f"them apart. Choose a model for the language of these texts."
    )
    clean = reads(mood={"kind": "classification", "train": dev, "dev": dev})
    assert not [line for line in clean.report.warnings if "vocabulary" in line]


def test_rows_of_a_list_on_one_line_are_held_out_one_by_one(reads, tmp_path):
    """json.dump writes a whole file as one line: each row has a place of its own nevertheless."""
    nouns = ("cat", "dog", "man", "film", "book")
    rows = [
        {"text": f"{a} {b}", "label": f"{at % 2}"}
        for at, (a, b) in enumerate((a, b) for a in nouns for b in nouns)
    ]
    name = put(tmp_path, "list.json", json.dumps(rows))
    own = reads(mood={"kind": "classification", "train": name}).tasks["mood"]
    train, held = [one.where for one in own.train], [one.where for one in own.dev]
    assert 1 <= len(held) < 12
    assert len({*train, *held}) == len(train) + len(held) == 25
    assert [row.values["label"] for row in own.dev_rows] == [one.gold for one in own.dev]


def test_clean_data_has_no_warnings(reads, tmp_path):
    name = put(tmp_path, "a.csv", "text,label", "a film,neg", "a book,pos")
    dev = put(tmp_path, "b.csv", "text,label", "a cat,neg")
    assert reads(mood={"kind": "classification", "train": name, "dev": dev}).report.warnings == ()


def test_answers_that_are_learnt_do_not_hide_that_questions_are_equal(kit, tmp_path, stories260k):
    pairs = (("a", "b"), ("c", "d"), ("a", "e"))
    rows = [f'{{"instruction": "say {asked}", "output": "{answer}"}}' for asked, answer in pairs]
    name = put(tmp_path, "train.jsonl", *rows)
    dev = put(tmp_path, "dev.jsonl", '{"instruction": "say a", "output": "z"}')
    recipe = kit.make_recipe(stories260k, STAGES, {"say": {"kind": "generation", "train": name, "dev": dev}})
    tokenizer = load_tokenizer(locate(str(stories260k), None, root=tmp_path), max_tokens=64)
    data = read_data(recipe, tokenizer, root=tmp_path)
    assert report_of(data, "say").overlap == {"train/dev": 1}
    assert split_of(data, "say", "train").duplicates == 1
    learnt, asked = data.tasks["say"].train[0].tokens, data.tasks["say"].dev[0].tokens
    assert learnt[: len(asked)] == asked
    assert len(learnt) > len(asked)


LONG = ("Once upon a time there was a big red cat. " * 12, "春眠不觉晓，处处闻啼鸟。" * 9, "Tim ran. " * 40)


@pytest.fixture
def texts(kit, tmp_path, stories260k):
    """Return the data of a task on plain texts: three long ones, two short ones, an empty one; blocks of 64 tokens."""
    rows = [{"text": text} for text in (*LONG, "a red ball", "Tim is sad", " ")]
    name = put(tmp_path, "train.jsonl", *(json.dumps(row, ensure_ascii=False) for row in rows))
    dev = put(tmp_path, "dev.jsonl", json.dumps({"text": "the sun is big. " * 30}), '{"text": "a red ball"}')
    tokenizer = load_tokenizer(locate(str(stories260k), None, root=tmp_path), max_tokens=64)

    def read(**changes):
        spec = {"kind": "generation", "train": name, "dev": dev, **changes}
        tasks = {"tales": {key: value for key, value in spec.items() if value is not None}}
        recipe = kit.make_recipe(stories260k, [{"name": "one", "batch": 4}], tasks)
        return recipe, read_data(recipe, tokenizer, root=tmp_path)

    return read


def test_a_block_of_a_text_is_an_example_and_rows_are_counted_beside(texts):
    recipe, data = texts()
    tales, train = data.tasks["tales"], split_of(data, "tales", "train")
    by_line = Counter(example.where.rpartition(":")[2] for example in tales.train)
    assert list(by_line) == ["1", "2", "3", "4", "5"]
    assert min(by_line[line] for line in "123") > 1 == by_line["4"] == by_line["5"]
    assert (train.read, train.used, train.examples) == (6, 5, len(tales.train))
    assert train.dropped == {"no text": 1}
    assert train.labels["answers"] == len(tales.train_golds) == 5
    assert train.tokens_max == 64
    assert (train.duplicates, report_of(data, "tales").overlap) == (0, {"train/dev": 1})
    dev = split_of(data, "tales", "dev")
    assert (dev.read, dev.used, dev.examples, len(tales.dev_rows)) == (2, 2, 2, 2)
    assert len(tales.taught[DEV]) > 2
    order = order_of(recipe, recipe.stages[0], data, by_length=False)
    keys = order.mixture.keys["tales"]
    assert len(set(keys.tolist())) == order.epoch_size == len(tales.train)
    drawn = [draw.row for step in order.steps(0) for draw in step]
    assert sorted(drawn) == list(range(len(tales.train)))
    assert drawn != sorted(drawn)
    assert max(map(len, order.steps(0))) == 4


def test_a_text_whose_middle_is_blank_is_learnt_though_nobody_can_be_asked_for_it(texts, tmp_path):
    code = json.dumps({"text": "def f():\n" + "    " * 60 + "pass"})
    name = put(tmp_path, "code.jsonl", code, '{"text": "a red ball"}')
    _, data = texts(train=name, max_new_tokens=4)
    train = split_of(data, "tales", "train")
    assert (train.used, train.dropped) == (2, {})
    assert train.examples > 4
    assert len(data.tasks["tales"].train_golds) == 2


def test_a_document_is_held_out_with_all_its_blocks(texts):
    _, data = texts(dev=None)
    tales = data.tasks["tales"]
    held = {example.where for example in tales.dev}
    assert len(held) == 1
    assert {example.where for example in tales.taught[DEV]} == held
    assert not held & {example.where for example in tales.train}
    assert split_of(data, "tales", HELD_OUT).read == 1


def many(folder: Path, *, every: int = 1) -> str:
    """Write 120 rows of 60 texts; only each ``every``-th text has a label."""
    lines = [f"one {n % 60} two,{'ab'[n % 2] if n % 60 % every == 0 else ''}" for n in range(120)]
    return put(folder, "many.csv", "text,label", *lines)


def test_without_dev_a_tenth_is_held_out_by_text_and_named_so(reads, tmp_path):
    data = reads(mood={"kind": "classification", "train": many(tmp_path)})
    mood = data.tasks["mood"]
    held, kept = ({example.tokens for example in rows} for rows in (mood.dev, mood.train))
    assert not held & kept
    assert len(mood.dev) + len(mood.train) == 120
    assert 2 <= len(mood.dev) <= 30
    assert len(mood.dev) == 2 * len(held)  # both rows of each text
    assert [split.split for split in report_of(data, "mood").splits] == ["train", HELD_OUT]
    assert split_of(data, "mood", HELD_OUT).used == len(mood.dev)
    assert report_of(data, "mood").overlap == {"train/held-out": 0}
    assert mood.dev_split == HELD_OUT


def test_rows_without_a_label_are_never_held_out(reads, tmp_path):
    data = reads(mood={"kind": "classification", "train": many(tmp_path, every=3)})
    held, train = split_of(data, "mood", HELD_OUT), split_of(data, "mood", "train")
    assert held.dropped == {}
    assert held.read == held.used > 0
    assert train.dropped == {"no label": 80}
    assert train.used + held.used == 40


def test_held_out_rows_follow_the_seed_alone(reads, tmp_path):
    task = {"kind": "classification", "train": many(tmp_path)}

    def held(seed: int, **others: Any) -> list[str]:
        return [example.where for example in reads(seed=seed, mood=task, **others).tasks["mood"].dev]

    assert held(0) == held(0, other={**task, "train": "many.csv[:30]"}) != held(1)


def test_reports_name_the_rows_that_were_judged(reads, tmp_path):
    name = many(tmp_path)
    test = put(tmp_path, "t.csv", "text,label", "never seen,a", "neither this,b")
    data = reads(
        plain={"kind": "classification", "train": name},
        given={"kind": "classification", "train": name, "dev": test},
        tested={"kind": "classification", "train": name, "test": test},
    )
    assert split_rows(data.tasks["plain"], DEV)[0] == split_rows(data.tasks["plain"], TEST)[0] == HELD_OUT
    assert split_rows(data.tasks["given"], TEST) == (DEV, data.tasks["given"].dev)
    assert split_rows(data.tasks["tested"], TEST) == (TEST, data.tasks["tested"].test)
    assert split_rows(data.tasks["tested"], DEV)[0] == HELD_OUT


def test_several_sources_are_one_split(reads, tmp_path):
    a = put(tmp_path, "a.csv", "text,label", "a film,neg", "a book,pos")
    b = put(tmp_path, "b.csv", "text,label", "a cat,neg")
    data = reads(mood={"kind": "classification", "train": [a, b], "dev": b})
    train = split_of(data, "mood", "train")
    assert (train.read, train.sources) == (3, (a, b))
    assert [example.where for example in data.tasks["mood"].train] == ["a.csv:2", "a.csv:3", "b.csv:2"]


def test_the_digest_sees_every_split_and_every_row(reads, tmp_path):
    task = {
        "kind": "classification",
        "train": many(tmp_path),
        "dev": "many.csv[:9]",
        "test": "many.csv[9:12]",
    }
    digests = {
        reads(mood=task).digest,
        reads(mood={**task, "dev": "many.csv[:10]"}).digest,
        reads(mood={**task, "test": "many.csv[9:13]"}).digest,
        reads(mood={**task, "train": "many.csv[1:]"}).digest,
        reads(other=task).digest,
    }
    assert len(digests) == 5
    assert reads(mood=task).digest in digests


@pytest.mark.parametrize("rest", [{}, {"dev": "dev.csv"}])
def test_a_split_without_usable_rows_says_why(reads, tmp_path, rest):
    put(tmp_path, "dev.csv", "text,label", "a cat,odd")
    name = put(tmp_path, "a.csv", "text,label", ",neg", ",pos")
    with pytest.raises(DataError, match=r"tasks\.mood: train needs .* none of 2 is \(2 empty text\).*'text'"):
        reads(mood={"kind": "classification", "train": name, **rest})
    good = put(tmp_path, "b.csv", "text,label", "a film,neg", "a book,pos")
    with pytest.raises(DataError, match=r"mood: dev needs .* none of 1 is \(1 label not in the list\)"):
        reads(mood={"kind": "classification", "train": good, "dev": "dev.csv"})


def test_one_text_alone_cannot_be_held_out(reads, tmp_path):
    name = put(tmp_path, "a.csv", "text,label", "a film,neg", "a film,pos")
    with pytest.raises(DataError, match=r"tasks\.mood: hold-out: .* Give dev data of their own"):
        reads(mood={"kind": "classification", "train": name})


def test_golds_are_those_of_the_training_rows(kit, open_kit):
    data = open_kit(STAGES, {"mood": kit.MOOD}).data.tasks["mood"]
    assert data.train_golds == ["pos", "neg"] * 6
    assert all(isinstance(example, Encoded) for example in data.train)


def test_data_is_looked_for_in_the_data_root_first(kit, tmp_path, tiny_bert, tokenizer):
    put(tmp_path, "a.csv", "text,label", "beside,x", "the recipe,y")
    shelf = tmp_path / "shelf" / "owner" / "name"
    shelf.mkdir(parents=True)
    put(shelf, "train.csv", "text,label", "a good film,1", "a bad film,2", "a cat,2")
    tasks = {
        "near": {"kind": "classification", "train": "a.csv", "dev": "a.csv"},
        "far": {"kind": "classification", "train": "owner/name:train", "dev": "owner/name:train[:2]"},
    }
    recipe = kit.make_recipe(tiny_bert, STAGES, tasks)
    with pytest.raises(DataError, match=r"say data_root: <folder>"):
        read_data(recipe, tokenizer, root=tmp_path)
    for name in ("shelf", str(tmp_path / "shelf")):
        with_root = recipe.model_copy(update={"data_root": name})
        data = read_data(with_root, tokenizer, root=tmp_path)
        assert {task: len(one.train) for task, one in data.tasks.items()} == {"near": 2, "far": 3}
    with pytest.raises(DataError, match=r"^data_root: must be a folder that exists, but .*gone is none"):
        read_data(recipe.model_copy(update={"data_root": "gone"}), tokenizer, root=tmp_path)


def test_classes_of_very_unequal_size_are_said(reads, tmp_path):
    name = put(tmp_path, "a.csv", "text,label", *(f"film {number},pos" for number in range(20)), "a book,neg")
    dev = put(tmp_path, "b.csv", "text,label", "a cat,neg")
    mood = {"kind": "classification", "train": name, "dev": dev}
    (line,) = reads(mood=mood).report.warnings
    assert line.startswith("mood: pos has 20 training rows and neg 1:")
    assert reads(mood={**mood, "balance": "weights"}).report.warnings == ()


def test_values_of_several_types_in_a_column(reads, tmp_path):
    """One label however it is written; what is no number is no score, and counted."""
    labels = (
        '1, "score": 1',
        '"1", "score": "2.5"',
        '1.0, "score": "x"',
        'true, "score": null',
        '"true", "score": 1e999',
    )
    lines = [f'{{"text": "film {number}", "label": {value}}}' for number, value in enumerate(labels)]
    name = put(tmp_path, "a.jsonl", *lines, '{"text": 5, "label": "1", "score": "-3"}')
    data = reads(
        mood={"kind": "classification", "train": name, "dev": name},
        stars={"kind": "regression", "train": name, "dev": name, "columns": {"score": "score"}},
    )
    mood, stars = split_of(data, "mood", "train"), split_of(data, "stars", "train")
    assert (mood.labels, mood.dropped) == ({"1": 4, "true": 2}, {})
    assert (stars.used, stars.dropped) == (
        3,
        {"score is not a number": 1, "no score": 1, "score is not finite": 1},
    )


def test_a_split_without_a_column_that_a_text_is_made_of_is_refused_with_its_place(reads, tmp_path):
    train = [f'{{"word": "w{row}", "says": "the cat", "label": {row % 2}}}' for row in range(6)]
    put(tmp_path, "train.jsonl", *train)
    put(tmp_path, "dev.jsonl", '{"says": "the dog", "label": 1}')
    with pytest.raises(DataError) as caught:
        reads(
            word={
                "kind": "classification",
                "train": "train.jsonl",
                "dev": "dev.jsonl",
                "columns": {"text": "{word}: {says}"},
            }
        )
    assert str(caught.value).startswith(
        "dev.jsonl:1: tasks.word: the column word in the text for text must exist, but does not. "
    )
