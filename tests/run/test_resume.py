"""Stopped anywhere and taken up equals never stopped, to the bit; what cannot be taken up is refused by name."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from weft.build.catalogue import open_recipe
from weft.errors import CheckpointError, Interrupted
from weft.report.records import RunReport
from weft.run import checkpoints, context, finish, judging, session, stage, steps
from weft.run.events import Evaluated, Finished, Saved, StageStarted, Stepped
from weft.run.folder import RunFolder
from weft.train import checkpoint
from weft.train.engine import Engine
from weft.train.progress import Progress

FAST = {("together", 2), ("together", 4), ("alone", 1)}


def param(*values: Any, is_fast: bool) -> Any:
    """Return a case of a matrix, of which the fast tests take a part."""
    return pytest.param(*values, marks=() if is_fast else pytest.mark.slow)


STEPS = [
    param(name, step, is_fast=(name, step) in FAST) for name in ("together", "alone") for step in (1, 2, 3, 4)
]


def stop_after(job: Path, folder: Path, name: str, step: int) -> Interrupted:
    """Train until ``step`` of stage ``name`` is saved, then send SIGTERM; return how the run left."""
    here = ""
    try:
        for event in session.train(open_recipe(job), RunFolder(folder), root=job.parent):
            here = event.plan.name if isinstance(event, StageStarted) else here
            if isinstance(event, Saved) and (here, event.step) == (name, step):
                signal.raise_signal(signal.SIGTERM)
    except Interrupted as error:
        return error
    raise AssertionError("the run did not stop")


def optimizer_of(folder: Path, name: str) -> dict[str, Any]:
    return load_file(folder / "stages" / name / "checkpoints" / "step-00000004" / checkpoints.OPTIMIZER)


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Return a list that takes the rows of every step from now on."""
    rows: list[tuple[str, ...]] = []
    real = Engine.step

    def step(self: Engine, *arguments: Any, **options: Any) -> Any:
        result = real(self, *arguments, **options)
        rows.append(result.ids)
        return result

    monkeypatch.setattr(Engine, "step", step)
    return rows


class TestMatrix:
    @pytest.mark.parametrize(("name", "step"), STEPS)
    def test_stopped_after_any_step(
        self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path, name: str, step: int
    ):
        error = stop_after(job, tmp_path / "run", name, step)
        assert error.exit_code == 75
        assert "SIGTERM" in str(error)
        events = little.resume(tmp_path / "run")
        started = little.of_kind(events, StageStarted)
        assert (started[0].plan.name, started[0].step) == (name, step)
        assert len(little.of_kind(events, Stepped)) == 4 - step + 4 * (name == "together")
        assert little.differences(tmp_path / "run", unbroken) == []
        assert little.answers(tmp_path / "run") == little.answers(unbroken)
        for each in little.STAGES:
            assert equal(optimizer_of(tmp_path / "run", each), optimizer_of(unbroken, each))

    @pytest.mark.slow
    def test_rows_come_in_the_same_order(
        self, little: ModuleType, job: Path, tmp_path: Path, drawn: list[tuple[str, ...]]
    ):
        little.run(job, tmp_path / "straight")
        straight = list(drawn)
        drawn.clear()
        stop_after(job, tmp_path / "run", "alone", 2)
        assert len(drawn) == 6
        little.resume(tmp_path / "run")
        assert drawn == straight
        assert len({frozenset(rows) for rows in straight[:4]}) == 4

    def test_report_knows_both_halves(self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path):
        stop_after(job, tmp_path / "run", "alone", 1)
        before = little.log(tmp_path / "run")[-1]["clock"]
        report = little.report_of(little.resume(tmp_path / "run"))
        whole = little.report_of(little.resume(unbroken))
        for one, other in zip(report.stages, whole.stages, strict=True):
            assert [line.losses for line in one.curve] == [line.losses for line in other.curve]
            assert [e.selection for e in one.evaluations] == [e.selection for e in other.evaluations]
            assert (one.steps, one.tokens, one.examples) == (other.steps, other.tokens, other.examples)
        assert report.seconds > before > 0
        halves, straight = (
            [task.model_copy(update={"seconds": 0.0}) for task in one.final[0].tasks]
            for one in (report, whole)
        )
        assert halves == straight
        assert report.details == whole.details

    @pytest.mark.parametrize(
        "forgotten", [param(what, is_fast=what == "order") for what in ("order", "moments", "seed")]
    )
    def test_would_notice_what_is_not_restored(
        self,
        little: ModuleType,
        job: Path,
        unbroken: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        forgotten: str,
    ):
        stop_after(job, tmp_path / "run", "together", 2)
        real = Progress.from_json
        match forgotten:
            case "order":
                spoilt = lambda values: real({**values, "step_in_epoch": 0})  # noqa: E731
                monkeypatch.setattr(checkpoints.Progress, "from_json", spoilt)
            case "moments":
                monkeypatch.setattr(checkpoints, "load_optimizer_state", lambda *_: None)
            case _:
                monkeypatch.setattr("weft.train.engine.fold", lambda *_: 1)
        little.resume(tmp_path / "run")
        assert little.differences(tmp_path / "run", unbroken) != []


class TestBetweenPhases:
    """A kill leaves what was published before it, and perhaps something aside."""

    def missing(self, folder: Path, *names: str) -> None:
        for name in ("report.json", *names):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @pytest.mark.parametrize(
        "names",
        [
            param((), is_fast=False),
            param(("report.md", "report.html"), is_fast=False),
            param(("report.md", "report.html", "bundle"), is_fast=False),
            param(("report.html", "bundle", "predictions"), is_fast=True),
            param(("bundle", "predictions", "stages/alone/final"), is_fast=True),
            param(("bundle", "predictions", "stages/alone"), is_fast=True),
            param(("bundle", "predictions", "stages/alone", "stages/together/final"), is_fast=False),
            param(("bundle", "predictions", "stages"), is_fast=False),
        ],
    )
    def test_goes_on_from_what_is_there(
        self, little: ModuleType, unbroken: Path, tmp_path: Path, names: tuple[str, ...]
    ):
        folder = little.copy(unbroken, tmp_path / "run")
        self.missing(folder, *names)
        left = [folder / f".{name}.tmp-77" for name in ("bundle", "report.json")]
        for path in left:
            path.mkdir(parents=True)
            (path / "part").write_text("half")
        for path in folder.glob("stages/*"):
            (path / ".final.tmp-78").mkdir()
        with (folder / "log.jsonl").open("a") as file:
            file.write('{"event": "st')  # torn by the kill
        events = little.resume(folder)
        assert isinstance(events[-1], Finished)
        assert little.differences(folder, unbroken) == []
        assert little.answers(folder) == little.answers(unbroken)
        assert {"report.md", "report.html", "report.json"} <= {path.name for path in folder.iterdir()}
        assert list(folder.rglob("*.tmp-*")) == []
        kinds = [line["event"] for line in little.log(folder)]
        assert kinds.count("resumed") == 1
        trained = "stages" in names or any(
            name.startswith("stages") and "final" not in name for name in names
        )
        assert (little.of_kind(events, Stepped) != []) == trained

    def test_finished_run_tells_its_report_and_changes_nothing(
        self, little: ModuleType, unbroken: Path, tmp_path: Path
    ):
        folder = little.copy(unbroken, tmp_path / "run")
        before = little.tree(folder)
        (event,) = little.resume(folder)
        assert isinstance(event, Finished)
        assert event.report == RunReport.model_validate_json((unbroken / "report.json").read_bytes())
        after = little.tree(folder)
        assert after.pop("lock") != before.pop("lock")
        assert after == before

    def test_finished_run_whose_report_is_of_another_kind(
        self, little: ModuleType, unbroken: Path, tmp_path: Path
    ):
        folder = little.copy(unbroken, tmp_path / "run")
        (folder / "report.json").write_text('{"format": 99}')
        with pytest.raises(CheckpointError, match=r"report\.json: must be a report that this version"):
            little.resume(folder)


class TestSignals:
    @pytest.fixture
    def at(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, int], None]:
        """Return a function that makes the n-th call of ``module.name`` meet a SIGTERM before its work."""

        def at(module: Any, name: str, number: int) -> None:
            real, count = getattr(module, name), iter(range(1000))

            def call(*arguments: Any, **options: Any) -> Any:
                if next(count) == number:
                    signal.raise_signal(signal.SIGTERM)
                return real(*arguments, **options)

            monkeypatch.setattr(module, name, call)

        return at

    @pytest.mark.parametrize(
        ("module", "name", "number"),
        [
            param(judging, "answer_all", 0, is_fast=True),  # the first evaluation
            param(judging, "answer_all", 1, is_fast=False),  # the last of the stage
            param(judging, "judge", 1, is_fast=False),  # between two tasks' intervals
            param(judging, "answer_all", 4, is_fast=True),  # kept heads when the second stage is left
            param(finish, "evaluate", 0, is_fast=False),
            param(finish, "write_bundle", 0, is_fast=True),
            param(finish, "render_html", 0, is_fast=False),
            param(session, "save_parts", 1, is_fast=False),
            param(stage, "enter", 1, is_fast=False),
            param(stage, "probe", 0, is_fast=False),
            param(steps, "fraction_done", 2, is_fast=False),
        ],
    )
    def test_leaves_with_75_in_every_phase_and_goes_on_to_the_same_bits(
        self,
        little: ModuleType,
        job: Path,
        unbroken: Path,
        tmp_path: Path,
        at: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
        module: Any,
        name: str,
        number: int,
    ):
        before = signal.getsignal(signal.SIGTERM)
        at(module, name, number)
        with pytest.raises(Interrupted, match="stopped by SIGTERM") as caught:
            little.run(job, tmp_path / "run")
        assert caught.value.exit_code == 75
        assert signal.getsignal(signal.SIGTERM) is before
        assert not (tmp_path / "run" / "report.json").exists()
        monkeypatch.undo()
        report = little.report_of(little.resume(tmp_path / "run"))
        assert little.differences(tmp_path / "run", unbroken) == []
        assert [[e.step for e in one.evaluations] for one in report.stages] == [[2, 4], [2, 4]]

    def test_broken_off_evaluation_is_saved_before_and_made_up_for(
        self, little: ModuleType, job: Path, tmp_path: Path, at: Callable[..., None], monkeypatch: Any
    ):
        at(judging, "answer_all", 0)
        events: list[Any] = []
        running = session.train(open_recipe(job), RunFolder(tmp_path / "run"), root=job.parent)
        with pytest.raises(Interrupted, match="evaluation after step 2"):
            events.extend(running)
        assert isinstance(events[-1], Saved)
        assert events[-1].step == 2
        monkeypatch.undo()
        resumed = little.resume(tmp_path / "run")
        assert isinstance(resumed[2], Evaluated)
        assert resumed[2].report.step == 2

    def test_while_data_is_read_nothing_is_begun_and_train_works_again(
        self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(context, "read_data", lambda *_, **__: time.sleep(60))
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        start = time.monotonic()
        with pytest.raises(Interrupted, match="start again with 'weft train'"):
            little.run(job, tmp_path / "run")
        assert time.monotonic() - start < 5
        monkeypatch.undo()
        with pytest.raises(CheckpointError, match="must hold a run"):
            little.resume(tmp_path / "run")
        little.run(job, tmp_path / "run")  # without overwrite
        assert little.differences(tmp_path / "run", unbroken) == []

    @pytest.mark.slow
    def test_first_checkpoint_not_there_yet(
        self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path
    ):
        running = session.train(open_recipe(job), RunFolder(tmp_path / "run"), root=job.parent)
        little.until(running, lambda event: isinstance(event, StageStarted))
        running.close()
        little.resume(tmp_path / "run")
        assert little.differences(tmp_path / "run", unbroken) == []


class TestBadCheckpoints:
    @pytest.fixture
    def stopped(self, little: ModuleType, job: Path, tmp_path: Path) -> Path:
        """Return a run stopped after step 3 of the first stage; checkpoint 2 is there too."""
        stop_after(job, tmp_path / "run", "together", 3)
        return tmp_path / "run"

    def newest(self, run: Path) -> Path:
        return run / "stages/together/checkpoints/step-00000003"

    @pytest.mark.parametrize(
        ("name", "fault"),
        [
            param(
                name,
                fault,
                is_fast=name == checkpoints.WEIGHTS and fault != "missing",
            )
            for name in (checkpoints.WEIGHTS, checkpoints.OPTIMIZER, checkpoints.STATE, checkpoint.MANIFEST)
            for fault in ("truncated", "emptied", "flipped", "missing")
        ],
    )
    def test_newest_is_rejected_by_name_and_the_one_before_goes_on(
        self, little: ModuleType, unbroken: Path, stopped: Path, name: str, fault: str
    ):
        file = self.newest(stopped) / name
        match fault:
            case "truncated":
                file.write_bytes(file.read_bytes()[:-64])
            case "emptied":
                file.write_bytes(b"")
            case "flipped":
                little.flip_bit(file)
            case _:
                file.unlink()
        events = little.resume(stopped)
        started = little.of_kind(events, StageStarted)[0]
        assert started.step == 2
        (line,) = started.rejected
        assert "step-00000003.corrupt" in line
        assert name in line or name == checkpoint.MANIFEST
        assert little.differences(stopped, unbroken) == []
        entered = [line for line in little.log(stopped) if line["event"] == "entered"]
        assert entered[1]["rejected"] == [line]

    def test_all_bad_is_an_error_that_lists_each_and_never_starts_anew_in_silence(
        self, little: ModuleType, unbroken: Path, stopped: Path
    ):
        for path in stopped.glob("stages/together/checkpoints/step-*"):
            little.flip_bit(path / checkpoints.WEIGHTS)
        with pytest.raises(CheckpointError, match=r"none does") as caught:
            little.resume(stopped)
        assert "step-00000003" in str(caught.value)
        assert "step-00000002" in str(caught.value)
        assert "sha256" in str(caught.value)
        with pytest.raises(CheckpointError, match=r"step-00000002\.corrupt\n"):  # they are renamed by now
            little.resume(stopped)
        shutil.rmtree(stopped / "stages/together")  # what the message says
        little.resume(stopped)
        assert little.differences(stopped, unbroken) == []

    @pytest.mark.slow
    def test_checkpoint_whose_best_one_is_lost_cannot_be_gone_on_from(
        self, little: ModuleType, job: Path, tmp_path: Path
    ):
        """The stage could not hand on its best weights: it goes back to before they were made."""
        # Nothing gets better at such a rate: the first evaluation, after step 2, is the best.
        recipe = open_recipe(job, ("stages.0.lr=1e-9", "stages.0.strategy=full", "keep=3"))
        little.run(recipe, tmp_path / "straight", root=job.parent)
        home = little.copy(tmp_path / "straight", tmp_path / "run")
        for name in ("report.json", "bundle", "stages/alone", "stages/together/final"):
            path = home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder = home / "stages/together/checkpoints"
        assert {path.name[-1] for path in folder.glob("step-*")} == {"1", "2", "3", "4"}
        little.flip_bit(folder / "step-00000002" / checkpoints.WEIGHTS)
        events = little.resume(home)
        started = little.of_kind(events, StageStarted)[0]
        assert started.step == 1
        newest, middle, best = started.rejected
        assert "step-00000004.corrupt: the best checkpoint, step-00000002, is lost" in newest
        assert "step-00000003.corrupt: the best checkpoint, step-00000002, is lost" in middle
        assert "step-00000002.corrupt: trained.safetensors: content differs" in best
        assert little.differences(home, tmp_path / "straight") == []

    @pytest.mark.slow
    def test_planted_partial_checkpoint_is_ignored(self, little: ModuleType, unbroken: Path, stopped: Path):
        planted = self.newest(stopped).with_name("step-00000999")
        planted.mkdir()
        (planted / checkpoints.STATE).write_text("{}")
        events = little.resume(stopped)
        (line,) = little.of_kind(events, StageStarted)[0].rejected
        assert "step-00000999" in line
        assert "never finished" in line
        assert little.differences(stopped, unbroken) == []


class TestChanged:
    @pytest.fixture
    def own(self, job: Path, tiny_bert: Path, tmp_path: Path) -> Path:
        """Return the recipe of a copy of the job with a copy of the model, to be changed."""
        shutil.copytree(tiny_bert, tmp_path / "model")
        shutil.copytree(job.parent, tmp_path / "job")
        path = tmp_path / "job" / "recipe.yaml"
        path.write_text(path.read_text().replace(str(tiny_bert), "../model"), "utf-8")
        return path

    def test_data(self, little: ModuleType, own: Path, tmp_path: Path):
        stop_after(own, tmp_path / "run", "together", 1)
        with (own.parent / "size.dev.jsonl").open("a") as file:
            file.write(json.dumps({"text": "new", "label": 0.5}) + "\n")
        with pytest.raises(
            CheckpointError, match=r"keeps its data, but these changed since: size/dev\. Put it back"
        ):
            little.resume(tmp_path / "run")

    def test_model(self, little: ModuleType, own: Path, tmp_path: Path):
        stop_after(own, tmp_path / "run", "alone", 1)
        config = tmp_path / "model" / "config.json"
        config.write_text(
            config.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-11'), "utf-8"
        )
        with pytest.raises(CheckpointError, match="keeps its base model, but"):
            little.resume(tmp_path / "run")

    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT asks under an old name
    def test_adapters_of_the_model(self, little: ModuleType, own: Path, tmp_path: Path):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel

        config = LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = get_peft_model(AutoModel.from_pretrained(tmp_path / "model"), config)
            model.save_pretrained(tmp_path / str(seed))
        shutil.copytree(tmp_path / "1", tmp_path / "job" / "given")
        text = own.read_text().replace("path: ../model", "path: ../model, adapters: {given: given}")
        own.write_text(text, "utf-8")
        stop_after(own, tmp_path / "run", "together", 1)
        assert "adapters: {given: given}" in own.read_text()
        little.copy(tmp_path / "run", tmp_path / "other")
        little.resume(tmp_path / "run")
        shutil.rmtree(tmp_path / "job" / "given")
        shutil.copytree(tmp_path / "2", tmp_path / "job" / "given")
        with pytest.raises(CheckpointError, match="weights or adapters changed since"):
            little.resume(tmp_path / "other")

    @pytest.mark.parametrize("is_finished", [False, True])
    def test_recipe(self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path, is_finished: bool):
        if is_finished:
            little.copy(unbroken, tmp_path / "run")
        else:
            stop_after(job, tmp_path / "run", "together", 1)
        path = tmp_path / "run" / "recipe.yaml"
        path.write_text(path.read_text().replace("seed: 3", "seed: 4"), "utf-8")
        with pytest.raises(
            CheckpointError, match=r"keeps its recipe, but it changed since: seed: 3 -> 4\. Put"
        ):
            little.resume(tmp_path / "run")

    def test_comment_in_the_recipe_is_no_change(self, little: ModuleType, unbroken: Path, tmp_path: Path):
        folder = little.copy(unbroken, tmp_path / "run")
        with (folder / "recipe.yaml").open("a") as file:
            file.write("# looked at\n")
        assert isinstance(little.resume(folder)[-1], Finished)


class TestDisk:
    def test_room_for_all_checkpoints_is_asked_for_before_training(
        self, little: ModuleType, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        asked: list[int] = []
        real = checkpoint.preflight
        monkeypatch.setattr(checkpoint, "preflight", lambda home, n: (asked.append(n), real(home, n)))
        events = little.run(job, tmp_path / "run")
        trained = [event.plan.num_trained for event in little.of_kind(events, StageStarted)]
        at_start = [asked[0], asked[5]]  # then one for each of four checkpoints
        assert at_start == [12 * values * (1 + 2) for values in trained]

    def test_no_room_is_refused_at_the_start_of_the_stage(
        self, little: ModuleType, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        full = shutil.disk_usage(tmp_path)._replace(free=100_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(CheckpointError, match=r"checkpoints need \d+ bytes, but 100000 are free"):
            little.run(job, tmp_path / "run")
        assert not (tmp_path / "run" / "log.jsonl").exists()

    def test_disk_full_while_saving(
        self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        count = iter(range(100))
        real = checkpoint.__dict__["_write"]

        def write(path: Path, content: Any) -> None:
            if next(count) == 9:  # the optimizer of the third checkpoint
                path.write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(path, content)

        monkeypatch.setattr(checkpoint, "_write", write)
        with pytest.raises(CheckpointError, match="No space left on device") as caught:
            little.run(job, tmp_path / "run")
        assert caught.value.exit_code == 3
        names = {path.name for path in (tmp_path / "run/stages/together/checkpoints").iterdir()}
        assert names >= {"step-00000002"}
        assert not any(".tmp-" in name or "3" in name for name in names)
        monkeypatch.undo()
        assert little.of_kind(little.resume(tmp_path / "run"), StageStarted)[0].step == 2
        assert little.differences(tmp_path / "run", unbroken) == []

    @pytest.mark.slow
    def test_disk_full_elsewhere_is_one_clear_error_too(
        self, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(finish, "write_bundle", full)
        with pytest.raises(
            CheckpointError, match="bundle: a run must be able to write here, but No space left"
        ):
            little.run(job, tmp_path / "run")
        assert list((tmp_path / "run").glob("*bundle*")) == []
        monkeypatch.undo()
        little.resume(tmp_path / "run")
        assert little.differences(tmp_path / "run", unbroken) == []


def test_best_older_than_what_is_kept_is_handed_on_after_a_resume(
    little: ModuleType, job: Path, tmp_path: Path
):
    # Nothing gets better at such a rate, and an equal score is no better: the first evaluation is the best.
    recipe = open_recipe(job, ("stages.1.lr=1e-9", "stages.1.length=6 steps", "stages.1.evaluate=1 step"))
    little.run(recipe, tmp_path / "straight", root=job.parent)
    running = session.train(recipe, RunFolder(tmp_path / "run"), root=job.parent)
    stages: Iterator[Any] = (event for event in running if isinstance(event, StageStarted))
    assert [next(stages).plan.name, next(stages).plan.name] == ["together", "alone"]
    little.until(running, lambda event: isinstance(event, Saved) and event.step == 5)
    running.close()
    report = little.report_of(little.resume(tmp_path / "run"))
    assert report.stages[1].best_step == 1
    assert little.differences(tmp_path / "run", tmp_path / "straight") == []
    last = load_file(tmp_path / "run/stages/alone/checkpoints/step-00000006" / checkpoints.WEIGHTS)
    final = load_file(tmp_path / "run/stages/alone/final/delta.safetensors")
    assert any(not last[name].equal(final[name]) for name in final.keys() & last.keys())


def test_continued_optimizer_is_that_of_the_weights_handed_on(
    little: ModuleType, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stages = (
        "stages.1.carry.optimizer=continue",
        "stages.1.carry.trunk=continue",
        "stages.0.strategy=full",
        "stages.0.lr=1e-9",
        "stages.0.tasks=names",
        "stages.0.evaluate=1 step",
        "keep=3",
    )
    taken: list[dict[str, Any]] = []
    real = stage.load_optimizer_state
    monkeypatch.setattr(stage, "load_optimizer_state", lambda o, t: (taken.append(t), real(o, t)))
    report = little.report_of(little.run(open_recipe(job, stages), tmp_path / "run", root=job.parent))
    best = report.stages[0].best_step
    assert best < 4
    home = tmp_path / "run/stages/together/checkpoints" / f"step-{best:08d}"
    assert equal(taken[0], load_file(home / checkpoints.OPTIMIZER))
