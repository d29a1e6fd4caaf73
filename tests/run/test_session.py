"""A whole run: its events, its files, its report, and that the bundle answers as the network did."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from weft.build.catalogue import open_recipe
from weft.build.data import read_data
from weft.core.loss import Loss
from weft.errors import CheckpointError, DivergenceError, RecipeError, RunBusyError
from weft.evaluate.predict import answer_all
from weft.evaluate.predictions import read_predictions
from weft.export.bundle import open_bundle
from weft.recipe.spec import Precision, Recipe
from weft.report.records import RunReport
from weft.run import session, steps
from weft.run.events import DataRead, Evaluated, Finished, Saved, StageFinished, StageStarted, Stepped
from weft.run.folder import RunFolder
from weft.run.judging import split_rows


@pytest.fixture(scope="module")
def events(little: ModuleType, job: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return little.run(job, tmp_path_factory.mktemp("events") / "run")


@pytest.fixture(scope="module")
def report(events: list[Any]) -> RunReport:
    return events[-1].report


def only_names(job: Path, *overrides: str) -> Recipe:
    """Return the recipe with its second stage alone, which no longer has a parent."""
    recipe = open_recipe(job, tuple(f"stages.1.{one}" for one in overrides))
    return recipe.model_copy(update={"stages": recipe.stages[1:]})


class TestEvents:
    def test_come_in_the_order_of_the_work(self, events: list[Any]):
        stage = [
            StageStarted,
            *(Stepped, Saved, Stepped, Evaluated, Saved) * 2,
            StageFinished,
        ]
        assert [type(event) for event in events] == [DataRead, *stage, *stage, Finished]

    def test_steps_and_saves_are_numbered_through(self, events: list[Any]):
        assert [event.report.step for event in events if isinstance(event, Stepped)] == [0, 1, 2, 3] * 2
        assert [event.step for event in events if isinstance(event, Saved)] == [1, 2, 3, 4] * 2
        done = [event.done for event in events if isinstance(event, Stepped)]
        assert done == [0.25, 0.5, 0.75, 1.0] * 2

    def test_best_is_the_best_so_far(self, events: list[Any]):
        for stage in ("together", "alone"):
            judged = [e for e in events if isinstance(e, Evaluated) and e.report.stage == stage]
            scores = [event.report.selection for event in judged]
            assert [event.is_best for event in judged] == [
                all(score > earlier for earlier in scores[:at]) for at, score in enumerate(scores)
            ]

    def test_entering_the_second_stage_changed_nothing(self, events: list[Any]):
        first, second = (event for event in events if isinstance(event, StageStarted))
        assert first.entry_difference is None
        assert second.entry_difference is not None
        assert second.entry_difference < 1e-5
        assert first.rejected == second.rejected == ()
        assert first.step == second.step == 0


class TestFolder:
    def test_holds_what_the_design_says(self, unbroken: Path):
        names = {path.name for path in unbroken.iterdir()}
        assert names == {
            *("recipe.yaml", "origin.json", "plan.json", "log.jsonl", "lock"),
            *("report.json", "report.md", "report.html", "stages", "bundle", "predictions"),
        }
        for stage in ("together", "alone"):
            assert (unbroken / "stages" / stage / "final" / "parts.json").is_file()
        assert (unbroken / "stages/together/final/adapters/together/adapter_model.safetensors").is_file()
        assert (unbroken / "bundle" / "README.md").is_file()
        assert {str(p.relative_to(unbroken)) for p in unbroken.rglob("predictions/*/*")} == {
            "predictions/test/mood.jsonl",
            "predictions/dev/size.jsonl",  # has no test split
            "predictions/test/names.jsonl",
        }
        assert [path for path in unbroken.rglob("*") if ".tmp-" in path.name] == []

    def test_keeps_the_newest_checkpoint_and_the_best(self, unbroken: Path, report: RunReport):
        for stage in report.stages:
            folder = unbroken / "stages" / stage.name / "checkpoints"
            kept = {path.name for path in folder.iterdir() if path.is_dir()}
            newest = max(
                step for step in (3, 4) if step != stage.best_step
            )  # ``keep: 1``, the best not counted
            assert kept == {f"step-{step:08d}" for step in (stage.best_step, newest)}

    def test_recipe_means_what_was_trained(self, job: Path, unbroken: Path):
        assert open_recipe(unbroken / "recipe.yaml").digest() == open_recipe(job).digest()

    def test_plan_is_what_the_stages_report(self, unbroken: Path, report: RunReport):
        plans = json.loads((unbroken / "plan.json").read_text("utf-8"))["stages"]
        for plan, stage in zip(plans, report.stages, strict=True):
            said = stage.plan.model_dump(mode="json")
            assert {**plan, "seconds": 0} == {**said, "seconds": 0}  # the clock decides about the rate

    def test_log_tells_every_step_and_evaluation_once(self, little: ModuleType, unbroken: Path):
        lines = little.log(unbroken)
        kinds = [line["event"] for line in lines]
        stage = ["entered", *("step", "saved", "step", "evaluation", "saved") * 2, "left"]
        assert kinds == [*stage, *stage, "finished"]
        assert [line["step"] for line in lines if line["event"] == "step"] == [0, 1, 2, 3] * 2
        clocks = [line["clock"] for line in lines]
        assert clocks == sorted(clocks)

    def test_second_run_is_the_same_to_the_bit(self, little: ModuleType, unbroken: Path, events: list[Any]):
        assert little.differences(events[-1].folder, unbroken) == []
        assert little.answers(events[-1].folder) == little.answers(unbroken)


class TestReport:
    def test_on_disk_is_the_one_of_the_last_event(self, events: list[Any], report: RunReport):
        path = events[-1].folder / "report.json"
        assert RunReport.model_validate_json(path.read_bytes()) == report

    def test_adds_up(self, report: RunReport):
        for stage in report.stages:
            assert stage.steps == 4
            assert (
                sum(stage.examples.values())
                == sum(line.examples for line in stage.curve)
                == 4 * 16
                - (
                    8
                    if stage.name == "alone"
                    else 0  # 40 rows in steps of 16: the third step of an epoch is short
                )
            )
            assert stage.tokens == sum(line.tokens for line in stage.curve)
            assert stage.padded_tokens == sum(line.padded_tokens for line in stage.curve)
            assert math.isclose(stage.seconds, sum(line.seconds for line in stage.curve))
            assert stage.seconds_evaluating >= sum(evaluation.seconds for evaluation in stage.evaluations) > 0
            assert [evaluation.step for evaluation in stage.evaluations] == [2, 4]
            assert (stage.skipped, stage.stopped) == (0, "length")
            assert stage.epochs == sum(stage.examples.values()) / (120 if stage.name == "together" else 40)
        assert report.seconds > sum(stage.seconds + stage.seconds_evaluating for stage in report.stages)
        assert report.finished

    def test_stage_hands_on_the_first_of_its_best_evaluations(self, report: RunReport):
        for stage in report.stages:
            scores = {evaluation.step: evaluation.selection for evaluation in stage.evaluations}
            assert stage.best_step == max(scores, key=lambda step: (scores[step], -step))

    def test_leaving_scores_every_head_trained_or_not(self, report: RunReport):
        together, alone = report.stages
        assert [task.task for task in alone.leaving.tasks] == ["mood", "size", "names"]
        at_best = next(one for one in alone.evaluations if one.step == alone.best_step)
        assert alone.leaving.tasks[2] == at_best.tasks[0]
        assert together.leaving.tasks == next(
            one.tasks for one in together.evaluations if one.step == together.best_step
        )

    def test_chooses_on_dev_and_ends_on_test(self, report: RunReport):
        for stage in report.stages:
            for evaluation in stage.evaluations:
                assert {(task.split, task.scores[0].n) for task in evaluation.tasks} == {("dev", 12)}
        final = {task.task: (task.split, task.scores[0].n) for task in report.final[0].tasks}
        assert final == {"mood": ("test", 10), "size": ("dev", 12), "names": ("test", 10)}

    def test_test_rows_decide_about_nothing(
        self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path
    ):
        spoilt = shutil.copytree(job.parent, tmp_path / "job")
        little.write_rows(
            spoilt / "mood.test.jsonl",
            [{**row, "label": "down"} for row in (little.mood_row(index) for index in range(7))],
        )
        events = little.run(spoilt / "recipe.yaml", tmp_path / "run")
        assert little.differences(tmp_path / "run", unbroken) == []
        assert little.report_of(events).final[0].tasks[0].scores[0].n == 7


def test_bundle_answers_as_the_network_did(unbroken: Path):
    bundle = open_bundle(unbroken, precision=Precision.FP32)
    by_where = {}
    for path in sorted(unbroken.glob("predictions/*/*.jsonl")):
        file = read_predictions(path)
        by_where[file.task] = [row.answer for row in file.rows]
    origin = json.loads((unbroken / "origin.json").read_text("utf-8"))
    data = read_data(open_recipe(unbroken / "recipe.yaml"), bundle.tokenizer, root=Path(origin["root"]))
    rows = {name: split_rows(data.tasks[name], "test")[1] for name in bundle.tasks}
    found = answer_all(
        bundle.network, bundle.tasks, rows, pad=bundle.tokenizer.pad, budget=8192, dtype=torch.float32
    )
    assert set(by_where) == {"mood", "size", "names"}
    for name, answers in by_where.items():
        assert [a.to_json() for a in found.answers[name]] == [a.to_json() for a in answers]


class TestPlaces:
    def test_run_is_not_overwritten_unasked(self, little: ModuleType, job: Path, unbroken: Path):
        before = little.tree(unbroken)
        with pytest.raises(RecipeError, match=r"there is a run\. Resume it, or overwrite"):
            little.run(job, unbroken)
        before.pop("lock")
        assert before.items() <= little.tree(unbroken).items()

    def test_overwriting_leaves_nothing_of_the_old_run(
        self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path
    ):
        folder = little.copy(unbroken, tmp_path / "run")
        (folder / "stages" / "gone").mkdir()
        (folder / "notes.txt").write_text("mine")
        little.run(only_names(job), folder, root=job.parent, overwrite=True)
        assert [path.name for path in (folder / "stages").iterdir()] == ["alone"]
        assert (folder / "notes.txt").read_text() == "mine"
        assert not (folder / "predictions/test/mood.jsonl").exists()

    def test_overwriting_that_was_killed_leaves_no_run_and_nothing_to_inherit(
        self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path
    ):
        folder = little.copy(unbroken, tmp_path / "run")
        (folder / "origin.json").unlink()  # goes first; the stages of another run are still here
        with pytest.raises(CheckpointError, match="must hold a run, but holds none"):
            little.resume(folder)
        events = little.run(only_names(job), folder, root=job.parent)
        assert len(little.of_kind(events, StageStarted)) == 1
        assert little.of_kind(events, Stepped)

    def test_other_peoples_files_are_not_replaced(self, little: ModuleType, job: Path):
        before = job.read_bytes()
        with pytest.raises(RecipeError, match=r"recipe\.yaml would be replaced"):
            little.run(job, job.parent)  # --run . beside the recipe
        assert job.read_bytes() == before

    def test_folder_that_cannot_be_written(self, little: ModuleType, job: Path, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(
            CheckpointError, match=r"file/run: a run must be able to write here, but .*permission"
        ):
            little.run(job, tmp_path / "file" / "run")

    def test_resume_without_a_run_makes_no_folder(self, little: ModuleType, tmp_path: Path):
        with pytest.raises(CheckpointError, match=r"holds none\. Start one with 'weft train'"):
            little.resume(tmp_path / "nothing")
        assert not (tmp_path / "nothing").exists()

    def test_second_process_is_refused_and_told_the_first(
        self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path
    ):
        folder = little.copy(unbroken, tmp_path / "run")
        events = session.train(open_recipe(job), RunFolder(folder), root=job.parent, overwrite=True)
        little.until(events, lambda event: isinstance(event, Stepped))
        words = f"process {os.getpid()} on {socket.gethostname()} already does"
        with pytest.raises(RunBusyError, match=words):
            little.resume(folder)
        with pytest.raises(RunBusyError, match=words):
            little.run(job, folder, overwrite=True)
        events.close()
        with RunFolder(folder).locked():
            pass

    def test_handlers_are_put_back_however_it_ends(self, little: ModuleType, job: Path, tmp_path: Path):
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
        events = session.train(open_recipe(job), RunFolder(tmp_path / "run"), root=job.parent)
        next(events)
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        events.close()
        assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


class TestLengths:
    def test_minutes(self, little: ModuleType, job: Path, tmp_path: Path):
        recipe = only_names(job, "length=0.004 minutes", "evaluate=1k steps", "save=1 minute")
        report = little.report_of(little.run(recipe, tmp_path / "run", root=job.parent))
        (stage,) = report.stages
        assert stage.plan.steps is None
        last = stage.curve[-1]
        assert 0.24 <= stage.seconds < 0.24 + 60 * last.seconds
        assert stage.steps > 1
        assert [evaluation.step for evaluation in stage.evaluations] == [stage.steps]

    def test_patience_ends_a_stage_that_does_not_get_better(
        self, little: ModuleType, job: Path, tmp_path: Path
    ):
        recipe = only_names(job, "lr=1e-9", "length=9 steps", "evaluate=1 step", "patience=2", "decay=0")
        report = little.report_of(little.run(recipe, tmp_path / "run", root=job.parent))
        (stage,) = report.stages
        assert [evaluation.step for evaluation in stage.evaluations] == [1, 2, 3]
        assert (stage.stopped, stage.best_step, stage.steps) == ("patience", 1, 3)
        # The best one is older than the checkpoints that are kept to resume from, and stayed.
        kept = {path.name for path in (tmp_path / "run/stages/alone/checkpoints").glob("step-*")}
        assert kept == {"step-00000001", "step-00000003"}

        # Killed after the last evaluation: no further step is taken.
        shutil.rmtree(tmp_path / "run/stages/alone/final")
        (tmp_path / "run/report.json").unlink()
        events = little.resume(tmp_path / "run")
        assert little.of_kind(events, Stepped) == []
        again = little.report_of(events).stages[0]
        assert again.model_copy(
            update={"seconds_evaluating": 0, "peak_memory_bytes": 0, "plan": stage.plan}
        ) == (stage.model_copy(update={"seconds_evaluating": 0, "peak_memory_bytes": 0}))


class TestNotFinite:
    @pytest.fixture
    def spoil(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return a function that makes the losses of given calls of the objective NaN."""

        def spoil(*calls: int) -> None:
            counter = iter(range(10_000))

            class Spoilt(steps.Supervised):
                def __call__(self, batch: Any, forward: Any) -> Any:
                    losses = super().__call__(batch, forward)
                    factor = math.nan if next(counter) in calls else 1.0
                    return {
                        name: Loss(loss.total * factor, loss.weight, loss.parts)
                        for name, loss in losses.items()
                    }

            monkeypatch.setattr(steps, "Supervised", Spoilt)

        return spoil

    def test_skipped_steps_are_told_everywhere_and_survive_a_resume(
        self, little: ModuleType, job: Path, tmp_path: Path, spoil: Any
    ):
        spoil(1, 3)  # the last one is the last step: nobody takes a later one that would count it
        events = little.run(only_names(job), tmp_path / "run", root=job.parent)
        assert [event.report.skipped for event in little.of_kind(events, Stepped)] == [0, 1, 0, 1]
        assert little.report_of(events).stages[0].skipped == 2
        lines = [line for line in little.log(tmp_path / "run") if line["event"] == "step"]
        assert [line["losses"]["names"] == "NaN" for line in lines] == [False, True, False, True]
        (tmp_path / "run" / "report.json").unlink()
        shutil.rmtree(tmp_path / "run/stages/alone/final")
        stage = little.report_of(little.resume(tmp_path / "run")).stages[0]
        assert stage.skipped == 2
        assert [math.isnan(line.losses["names"]) for line in stage.curve] == [False, True, False, True]
        weights = little.tensors(tmp_path / "run")
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())

    def test_divergence_is_told_and_leaves_a_run_that_can_be_taken_up(
        self, little: ModuleType, job: Path, tmp_path: Path, spoil: Any, monkeypatch: pytest.MonkeyPatch
    ):
        spoil(*range(1, 100))
        recipe = only_names(job, "length=12 steps", "save=5 minutes", "evaluate=12 steps")
        events: list[Any] = []
        running = session.train(recipe, RunFolder(tmp_path / "run"), root=job.parent)
        with pytest.raises(DivergenceError, match="4 steps in a row"):
            events.extend(running)
        assert isinstance(events[-1], Stepped)
        assert events[-1].report.skipped == 4
        assert little.log(tmp_path / "run")[-1]["event"] == "diverged"
        monkeypatch.undo()
        resumed = little.report_of(little.resume(tmp_path / "run"))
        assert resumed.stages[0].steps == 12
        assert resumed.stages[0].skipped == 0


def test_instruction_tuning_of_a_decoder(little: ModuleType, stories260k: Path, tmp_path: Path):
    rows = [{"instruction": f"say {word}", "output": word} for word in ("cat", "dog", "sun", "day") * 4]
    little.write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(
        f"""\
model: {{path: {stories260k}, max_tokens: 64}}
precision: fp32
bootstrap: 100
tasks:
  answer: {{kind: generation, train: rows.jsonl, dev: "rows.jsonl[:6]", max_new_tokens: 4}}
stages:
  - {{name: tune, strategy: full, lr: 1e-3, batch: 8, length: 3 steps, evaluate: 3 steps}}
  - {{name: more, strategy: lora, batch: 8, length: 2 steps, evaluate: 2 steps}}
""",
        encoding="utf-8",
    )
    report = little.report_of(little.run(tmp_path / "recipe.yaml", tmp_path / "run"))
    assert [stage.steps for stage in report.stages] == [3, 2]
    losses = [line.losses["answer"] for stage in report.stages for line in stage.curve]
    assert losses[-1] < losses[0]
    assert report.stages[1].entry_difference is not None
    bundle = open_bundle(tmp_path / "run")
    answers = [row.answer for row in read_predictions(tmp_path / "run/predictions/dev/answer.jsonl").rows]
    assert len(answers) == 6
    assert all(answer.text is not None for answer in answers)
    assert set(bundle.tasks) == {"answer"}
