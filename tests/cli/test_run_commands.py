"""The commands around a run, end to end on one tiny run: train, resume, check, plan, eval, compare, export."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Weft = Callable[..., tuple[int, str, str]]
Runs = Any  # tests/cli/conftest.py


def test_train_tells_its_way_on_stderr_and_its_scores_on_stdout(runs: Runs):
    for words in (
        "Stage together, from base: lora",
        "Stage expert, from together: head",
        "100% step 12",
        "(best)",
    ):
        assert words in runs.told
    assert "warning: mood: 24 texts of train/test are equal" in runs.told
    lines = runs.said.splitlines()
    assert lines[0].split() == ["task", "split", "metric", "value", "[95", "%]", "baseline", "n"]
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "task", "mood", "match", "names", "report:", "bundle:",
    ]  # fmt: skip
    for line in lines[-2:]:
        assert Path(line.partition(": ")[2]).exists()


def test_train_refuses_a_folder_with_a_run(weft: Weft, runs: Runs):
    code, out, err = weft("train", str(runs.recipe), "--run", str(runs.first))
    assert (code, out) == (2, "")
    assert "a new run needs a folder without one" in err


def test_train_speaks_chinese_and_json(
    weft: Weft, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    short = ("stages.together.length=1 steps", "stages.expert.length=1 steps")
    monkeypatch.setenv("WEFT_LANG", "zh")
    code, out, err = weft("train", str(runs.recipe), *short, "--run", str(tmp_path / "zh"))
    assert code == 0
    assert "阶段 together，起点 base" in err
    assert "基线" in out
    code, out, err = weft("train", str(runs.recipe), *short, "--run", str(tmp_path / "json"), "--json")
    assert (code, err) == (0, "")
    assert [stage["steps"] for stage in json.loads(out)["stages"]] == [1, 1]


def test_resume_of_a_finished_run_tells_its_scores_again(weft: Weft, runs: Runs):
    code, out, _ = weft("resume", str(runs.first))
    assert code == 0
    assert out.splitlines()[:10] == runs.said.splitlines()[:10]
    code, out, _ = weft("resume", str(runs.first), "--json")
    assert (code, json.loads(out)["name"]) == (0, "first")


def test_resume_without_a_run_is_an_error_of_checkpoints(weft: Weft, tmp_path: Path):
    assert weft("resume", str(tmp_path))[0] == 3


def test_check_shows_the_data_and_says_that_all_is_well(weft: Weft, runs: Runs):
    code, out, err = weft("check", str(runs.recipe))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].split() == "mood train 96 96 8 ≤12 0 % 0 – happy: 54 · sad: 42".split()
    match = next(line for line in lines if line.startswith("match"))
    assert "0 to 0.25: 20 · 0.25 to 0.5: 22" in match, "ranges stand in their own order"
    assert lines[-1] == f"{runs.recipe}: 3 task(s), 2 stage(s), no mistakes."


def test_check_names_every_mistake_at_once(weft: Weft, runs: Runs):
    code, out, err = weft("check", str(runs.recipe), "seed=-1", "stages.together.lr=x", "keep=no")
    assert (code, out) == (2, "")
    assert "3 problems. Nothing was started." in err
    for key in ("seed", "stages.0.lr", "keep"):
        assert key in err


def test_check_as_json(weft: Weft, runs: Runs):
    code, out, _ = weft("check", str(runs.recipe), "seed=3", "--json")
    found = json.loads(out)
    assert (code, found["recipe"]["seed"]) == (0, 3)
    assert [task["task"] for task in found["data"]["tasks"]] == ["mood", "match", "names"]


def test_check_of_missing_data_is_an_error_of_data(weft: Weft, runs: Runs):
    code, _, err = weft("check", str(runs.recipe), "tasks.mood.train=mod.csv")
    assert code == 5
    assert "mood.csv" in err


def test_plan_says_what_each_stage_trains(weft: Weft, runs: Runs):
    code, out, _ = weft("plan", str(runs.recipe))
    assert code == 0
    assert "Stage together, from base: lora" in out
    assert re.search(r"^  draws: mood 35\.0 % \(0\.\d+ passes\), match 29\.9 % ", out, re.MULTILINE)
    assert "trains 7.88 k of 36.8 k values (21.4 %)" in out
    trained = [line.split() for line in out.splitlines() if line.strip().startswith("trained")]
    assert ["trained", "5e-3", "66", "heads.mood.out.{weight,bias}", "head", "of", "a", "task"] in [
        line[:8] for line in trained
    ]
    assert "warning: the trunk moves" not in out, "the second stage trains heads only"


def test_plan_as_json_has_a_table_whose_sizes_add_up(weft: Weft, runs: Runs):
    code, out, _ = weft("plan", str(runs.recipe), "--json")
    assert code == 0
    for stage in json.loads(out)["stages"]:
        assert sum(row["num_values"] for row in stage["table"]) == stage["num_values"]
        trained = (row["num_values"] for row in stage["table"] if row["role"] == "trained")
        assert sum(trained) == stage["num_trained"]


def test_eval_of_a_run_gives_the_scores_of_its_report(weft: Weft, runs: Runs):
    code, out, err = weft("eval", str(runs.first), "--json")
    assert (code, err) == (0, "")
    report = json.loads((runs.first / "report.json").read_text())
    scores = {task["task"]: task["scores"] for task in report["final"][0]["tasks"]}
    found = {task["task"]: task["scores"] for task in json.loads(out)["tasks"]}
    assert found == scores
    assert weft("eval", str(runs.first / "bundle"))[1].splitlines() == runs.said.splitlines()[:-2]


def test_eval_shows_the_answers_that_the_report_of_the_run_shows(weft: Weft, runs: Runs, tmp_path: Path):
    report = json.loads((runs.first / "report.json").read_text())
    page = tmp_path / "page.html"
    code, out, err = weft("eval", str(runs.first), "--json", "--html", str(page))
    assert (code, err) == (0, f"page: {page}\n")
    found = json.loads(out)
    assert found["details"] == report["details"]
    assert (found["name"], found["model"]) == ("first", "tiny_bert0")
    whole, own = (path.read_text(encoding="utf-8") for path in (runs.first / "report.html", page))
    for key in ("scores", "details"):
        start = f'<section id="{key}">'
        section = whole[whole.index(start) : whole.index("</section>", whole.index(start))]
        assert section in own
    assert 'id="stages"' not in own


def test_eval_on_a_file_shows_its_rows_in_the_language_of_the_command_line(
    weft: Weft, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, page = tmp_path / "新.csv", tmp_path / "页.html"
    file.write_text("text,label\nthe <b>cat</b> likes london,sad\nmary hates bad food,happy\n")
    monkeypatch.setenv("WEFT_LANG", "zh")
    code, out, err = weft("eval", str(runs.first), f"mood={file}", "--html", str(page))
    assert (code, err) == (0, f"网页：{page}\n")
    assert "mood" in out
    written = page.read_text(encoding="utf-8")
    assert "<h2>答案细览</h2>" in written
    assert "the &lt;b&gt;cat&lt;/b&gt; likes london" in written or "mary hates bad food" in written
    assert "<b>cat" not in written
    code, scores, err = weft(
        "eval", str(runs.first), f"mood={file}", "--html", str(tmp_path / "no" / "page.html")
    )
    assert (code, "no/page.html" in err) == (74, True)
    assert scores == out  # a page that cannot be written takes no scores with it


def test_eval_on_a_file_says_which_rows_it_cannot_judge(weft: Weft, runs: Runs, tmp_path: Path):
    file = tmp_path / "new.csv"
    file.write_text("text,label\nthe cat likes london,happy\na dog,\nmary hates bad food,sad\nmary,angry\n")
    code, out, err = weft("eval", str(runs.first), f"mood={file}", "--json")
    assert code == 0
    (task,) = json.loads(out)["tasks"]
    assert (task["task"], task["split"]) == ("mood", str(file))
    assert {score["n"] for score in task["scores"]} == {2}
    assert "1 no label, 1 label not in the list" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mod=x.csv"], "Did you mean 'mood'"),
        (["mood"], "must be task=file"),
        (["mood=nothing.csv"], "must exist"),
        (
            ["mood=a.csv", "mood=b.csv"],
            "mood=b.csv: a task must be judged on one file, but mood is on a.csv too.",
        ),
    ],
)
def test_eval_refuses_what_it_does_not_know(arguments: list[str], words: str, weft: Weft, runs: Runs):
    code, out, err = weft("eval", str(runs.first), *arguments)
    assert (code, out) == (5, "")
    assert words in err


def test_eval_on_a_file_wants_every_column_that_a_text_is_made_of(weft: Weft, runs: Runs, tmp_path: Path):
    """A text with a hole in it would be judged like any other."""
    bundle = shutil.copytree(runs.first / "bundle", tmp_path / "bundle")
    about = bundle / "heads" / "mood" / "head.json"
    head = json.loads(about.read_text(encoding="utf-8"))
    head["config"]["columns"]["text"] = "{who}: {text}"
    about.write_text(json.dumps(head), encoding="utf-8")
    file = tmp_path / "new.csv"
    file.write_text("who,text,label\njohn,likes london,happy\n,hates bad food,sad\n")
    assert weft("eval", str(bundle), f"mood={file}")[0] == 0
    file.write_text("text,label\nlikes london,happy\nhates bad food,sad\n")
    code, out, err = weft("eval", str(bundle), f"mood={file}")
    assert (code, out) == (5, "")
    assert f"{file}:2: tasks.mood: the column who in the text for text must exist, but does not." in err


def test_eval_of_a_lonely_bundle_asks_for_data(weft: Weft, runs: Runs, tmp_path: Path):
    bundle = shutil.copytree(runs.first / "bundle", tmp_path / "away" / "bundle")
    code, _, err = weft("eval", str(bundle))
    assert code == 5
    assert "a bundle outside its run needs data" in err
    assert weft("eval", str(bundle), f"mood={runs.root / 'mood.csv'}")[0] == 0
    assert weft("eval", str(tmp_path))[0] == 7


def test_compare_of_two_runs(weft: Weft, runs: Runs):
    code, out, err = weft("compare", str(runs.first), str(runs.second))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("task   metric")
    assert any(line.startswith("mood") and "accuracy" in line for line in lines)
    assert any(line.startswith("match: ") and "rows answered better" in line for line in lines)
    assert "  seed: 0 → 1" in lines
    assert "  stages.1.lr: null → 0.01" in lines


def test_compare_of_a_run_with_itself_is_a_tie(weft: Weft, runs: Runs):
    code, out, _ = weft("compare", str(runs.first), str(runs.first), "--json")
    report = json.loads(out)
    assert (code, report["recipe"]) == (0, [])
    for task in report["tasks"]:
        assert {metric["verdict"] for metric in task["metrics"]} == {"tie"}
        assert (task["rows_better"], task["rows_worse"]) == (0, 0)


def test_compare_speaks_chinese(weft: Weft, runs: Runs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WEFT_LANG", "zh")
    code, out, _ = weft("compare", str(runs.first), str(runs.first))
    assert code == 0
    assert "不分高下" in out


def test_compare_needs_finished_runs(weft: Weft, runs: Runs, tmp_path: Path):
    code, _, err = weft("compare", str(runs.first), str(tmp_path))
    assert code == 5
    assert "must be a finished run" in err


def test_export_writes_folders_and_says_how_near_they_are(weft: Weft, runs: Runs, tmp_path: Path):
    code, out, err = weft("export", str(runs.first), str(tmp_path / "out"))
    assert (code, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["match", "mood", "names"]
    assert [line.partition(": ")[2][:25] for line in out.splitlines()] == [
        "loads with AutoModelForSe", "loads with AutoModelForSe", "loads with AutoModelForTo",
    ]  # fmt: skip


def test_export_of_one_task_as_json(weft: Weft, runs: Runs, tmp_path: Path):
    code, out, _ = weft("export", str(runs.first), str(tmp_path), "--task", "names", "--json")
    (found,) = json.loads(out)
    assert (code, found["folder"]) == (0, str(tmp_path / "names"))
    assert found["difference"] <= 1e-5


@pytest.mark.parametrize(
    ("options", "code"), [(["--task", "mod"], 7), (["--tolerance", "0"], 7), (["--tolerance", "-1"], 2)]
)
def test_export_refuses(options: list[str], code: int, weft: Weft, runs: Runs, tmp_path: Path):
    assert weft("export", str(runs.first), str(tmp_path / "out"), *options)[:2] == (code, "")
    assert list(tmp_path.iterdir()) == []


def test_export_to_where_nothing_can_be_written(weft: Weft, runs: Runs, tmp_path: Path):
    (tmp_path / "file").write_text("")
    code, _, err = weft("export", str(runs.first), str(tmp_path / "file" / "out"))
    assert code == 74
    assert "file" in err


def test_the_recipe_that_init_writes_passes_check(weft: Weft, runs: Runs, tiny_bert: Path, tmp_path: Path):
    for name in ("mood.csv", "match.jsonl", "names.conll"):
        shutil.copy(runs.root / name, tmp_path / name)
    files = [str(tmp_path / name) for name in ("mood.csv", "match.jsonl", "names.conll")]
    recipe = tmp_path / "new.yaml"
    assert weft("init", *files, "-o", str(recipe), "--model", str(tiny_bert))[0] == 0
    code, out, _ = weft("check", str(recipe))
    assert code == 0
    assert "3 task(s), 1 stage(s), no mistakes." in out
