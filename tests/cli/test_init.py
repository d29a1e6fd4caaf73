from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.build.catalogue import catalogue
from weft.cli.init import expanded, relative
from weft.recipe.load import load

Weft = Callable[..., tuple[int, str, str]]
QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "data" / "quickstart"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mood.csv").write_text(
        "text,label\ngood film,pos\nbad film,neg\nfine film,pos\n", encoding="utf-8"
    )
    (tmp_path / "mood.dev.csv").write_text("text,label\ngood,pos\n", encoding="utf-8")
    (tmp_path / "ner train.conll").write_text("Paris B-LOC\nis O\n\nI O\n", encoding="utf-8")
    (tmp_path / "ask.jsonl").write_text(
        '{"instruction": "hi", "output": "hello"}\n{"instruction": "bye", "output": "farewell"}\n',
        encoding="utf-8",
    )
    return tmp_path


def test_it_writes_a_recipe_that_loads(weft: Weft, folder: Path):
    code, out, err = weft("init", "mood.csv", "mood.dev.csv", "ner train.conll", "-o", "out/job.yaml")
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        "mood: classification, 3 training rows",
        "ner: tagging, 2 training rows",
        "Wrote out/job.yaml. Next: weft check out/job.yaml",
    ]
    recipe = load(folder / "out/job.yaml", catalogue())
    assert recipe.model.path == "minilm"
    assert (recipe.tasks["mood"].kind, recipe.tasks["ner"].kind) == ("classification", "tagging")
    assert recipe.tasks["mood"].train == ("../mood.csv",)
    assert recipe.tasks["mood"].dev == ("../mood.dev.csv",)
    assert recipe.tasks["ner"].train == ("../ner train.conll",)
    assert [stage.strategy for stage in recipe.stages] == ["lora"]


def test_the_recipe_is_commented_and_names_its_schema(weft: Weft, folder: Path):
    assert weft("init", "mood.csv")[0] == 0
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert "  # 3 training rows: pos 2, neg 1\n  mood:\n" in text
    assert "    # no dev data: a tenth of the training rows is held out\n" in text
    schema = json.loads((folder / "recipe.schema.json").read_text(encoding="utf-8"))
    assert "classification" in json.dumps(schema)


def test_columns_that_the_task_does_not_read_are_named(weft: Weft, folder: Path):
    rows = [{"id": at, "tokens": ["to", "paris"], "tags": ["O", "B-CITY"], "intent": "go"} for at in range(3)]
    flags = "text,toxic,insult\nyou,1,0\nme,0,1\n"
    (folder / "trips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "flags.csv").write_text(flags, encoding="utf-8")
    assert weft("init", "trips.jsonl", "flags.csv", "-o", "my job.yaml")[2].endswith(
        'weft check "my job.yaml"\n'
    )
    text = (folder / "my job.yaml").read_text(encoding="utf-8")
    assert "  # columns that this task does not read: id, intent\n  trips:\n" in text
    assert text.count("does not read") == 1  # a column a label is read
    load(folder / "my job.yaml", catalogue())


def test_commented_lines_are_valid_when_they_are_uncommented(weft: Weft, folder: Path):
    assert weft("init", "mood.csv", "ner train.conll")[0] == 0
    path = folder / "recipe.yaml"
    text = path.read_text(encoding="utf-8")
    assert "    # lr: 1e-4\n" in text
    path.write_text(text.replace("# lr:", "lr:").replace("# tasks:", "tasks:"), encoding="utf-8")
    (stage,) = load(path, catalogue()).stages
    assert stage.lr == 1e-4
    assert stage.tasks == {"mood": 0.5, "ner": 0.5}


def test_comments_are_chinese_where_chinese_is_asked_for(
    weft: Weft, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WEFT_LANG", "zh")
    assert weft("init", "mood.csv")[0] == 0
    assert "# 3 行训练数据: pos 2, neg 1\n" in (folder / "recipe.yaml").read_text(encoding="utf-8")
    load(folder / "recipe.yaml", catalogue())


def test_an_existing_recipe_stays_unless_forced(weft: Weft, folder: Path):
    (folder / "recipe.yaml").write_text("mine\n", encoding="utf-8")
    code, _, err = weft("init", "mood.csv")
    assert (code, err) == (
        2,
        "recipe.yaml: must not exist yet, but does. Choose another -o, or add --force.\n",
    )
    assert (folder / "recipe.yaml").read_text(encoding="utf-8") == "mine\n"
    assert weft("init", "mood.csv", "--force")[0] == 0
    load(folder / "recipe.yaml", catalogue())


def test_a_generative_task_needs_a_model(weft: Weft, folder: Path):
    code, _, err = weft("init", "ask.jsonl")
    assert code == 2
    assert err.startswith("tasks.ask: must have a decoder or an encoder-decoder")
    assert not (folder / "recipe.yaml").exists()
    assert weft("init", "ask.jsonl", "--model", "models/my llama")[0] == 0
    recipe = load(folder / "recipe.yaml", catalogue())
    assert (recipe.model.path, recipe.tasks["ask"].kind) == ("models/my llama", "generation")


def test_dev_data_alone_is_refused(weft: Weft, folder: Path):
    code, _, err = weft("init", "mood.dev.csv")
    assert code == 2
    assert (
        err == "tasks.mood: must have training data, but mood.dev.csv is alone. Give its training file too.\n"
    )


def test_a_file_that_cannot_be_learnt_from_is_refused_with_its_columns(weft: Weft, folder: Path):
    (folder / "odd.csv").write_text("foo,bar\n1,2\n", encoding="utf-8")
    code, _, err = weft("init", "odd.csv")
    assert code == 5
    assert "odd.csv: must have columns that say what to learn" in err
    assert "but has foo, bar" in err


def test_a_file_that_is_not_there(weft: Weft, folder: Path):
    code, _, err = weft("init", "mod.csv")
    assert code == 5
    assert "mod.csv" in err


def test_slices_and_multi_label(weft: Weft, folder: Path):
    (folder / "topic.jsonl").write_text(
        '{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": ["y"]}\n{"text": "c", "labels": []}\n',
        encoding="utf-8",
    )
    assert weft("init", "topic.jsonl[:2]", "-o", "sub/r.yaml")[0] == 0
    task = load(folder / "sub/r.yaml", catalogue()).tasks["topic"]
    assert task.train == ("../topic.jsonl[:2]",)
    assert task.multi_label is True


def test_the_shipped_folder(weft: Weft, tmp_path: Path):
    code, _, err = weft("init", str(QUICKSTART), "-o", str(tmp_path / "r.yaml"))
    assert code == 0, err
    recipe = load(tmp_path / "r.yaml", catalogue())
    kinds = {name: task.kind for name, task in recipe.tasks.items()}
    assert kinds == {"entities": "tagging", "sentiment": "classification", "similarity": "regression"}
    assert all(task.train and task.dev and task.test for task in recipe.tasks.values())


def test_folders_become_their_files_or_their_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("plain/b.csv", "plain/a.jsonl", "plain/notes.md", "one/state.json", "empty/x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}', encoding="utf-8")
    assert expanded(["plain", "x.csv"]) == ["plain/a.jsonl", "plain/b.csv", "x.csv"]
    assert expanded(["saved", "one", "empty"]) == ["saved:train", "saved:test", "one", "empty"]


def test_references_are_seen_from_the_recipes_folder(folder: Path):
    assert relative("mood.csv", Path("a/b")) == "../../mood.csv"
    assert relative("mood.csv[:2]", Path()) == "mood.csv[:2]"
    assert relative("mood.csv:train[:2]", Path("a")) == "../mood.csv:train[:2]"
    assert relative("org/name:train", Path("a")) == "org/name:train"
    assert relative(str(folder / "mood.csv"), Path("a")) == str(folder / "mood.csv")


def test_a_folder_of_subsets_as_the_hub_has_it(weft: Weft, tmp_path: Path):
    code, _, err = weft(
        "init", str(QUICKSTART.parent / "hub" / "nyu-mll" / "glue"), "-o", str(tmp_path / "r.yaml")
    )
    assert code == 0, err
    tasks = load(tmp_path / "r.yaml", catalogue()).tasks
    kinds = {name.removeprefix("glue_"): task.kind for name, task in tasks.items()}
    assert kinds == {
        **dict.fromkeys(("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "wnli"), "classification"),
        "stsb": "regression",
    }
    assert len(tasks["glue_mnli"].dev) == 2
    assert tasks["glue_qnli"].columns == {"text": "question", "pair": "sentence"}
    assert tasks["glue_rte"].train[0].endswith("nyu-mll/glue@rte:train")
