from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from weft import __version__
from weft.cli import app
from weft.cli.app import COMMANDS, EXIT_BUG, EXIT_INTERRUPTED, EXIT_IO
from weft.errors import CheckpointError, Interrupted, RecipeError, RunBusyError

Weft = Callable[..., tuple[int, str, str]]
SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Return a function that puts ``run`` into the table as the command ``probe``."""

    def install(run: Callable[..., None]) -> None:
        module = ModuleType("probe")
        module.run = run
        monkeypatch.setitem(sys.modules, "probe", module)
        monkeypatch.setattr(app, "COMMANDS", {"env": "probe"})

    return install


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import json, sys\nfrom weft.cli import main\ncode = main(['--help'])\n"
        "print(json.dumps([code, sorted(sys.modules)]))\n"
    )
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    code, loaded = json.loads(last)
    assert code == 0
    for name in COMMANDS:
        assert any(line.strip().startswith(f"{name} ") for line in lines), name
    heavy = {
        "torch",
        "numpy",
        "transformers",
        "peft",
        "pyarrow",
        "sklearn",
        "ruamel",
        "weft.recipe.spec",
        "weft.cli.env",
    }
    assert heavy & set(loaded) == set()


def test_training_is_imported_without_what_only_some_runs_need():
    done = fresh("import sys, json, weft.cli.train, weft.cli.resume\nprint(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "torch" in loaded
    assert loaded.isdisjoint(
        (
            "transformers",
            "datasets",
            "peft",
            "sklearn",
            "scipy",
            "pandas",
            "seqeval",
            "sympy",
            "torch._dynamo",
        )
    )


def test_reading_tags_imports_no_metrics():
    code = (
        "import sys, json\nfrom weft.task.schemes import recognise\n"
        "recognise([('B-X', 'I-X', 'O'), ('I-X', 'O')])\nprint(json.dumps(sorted(sys.modules)))"
    )
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)).isdisjoint(("seqeval", "sklearn", "scipy", "pandas"))


def test_help_is_chinese_where_chinese_is_asked_for(weft: Weft, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WEFT_LANG", "zh")
    code, out, _ = weft("--help")
    assert code == 0
    assert "混合微调" in out


def test_version(weft: Weft):
    assert weft("--version") == (0, f"weft {__version__}\n", "")


def test_no_command_shows_the_help_and_is_an_error_of_usage(weft: Weft):
    code, out, err = weft()
    assert code == 2
    assert "Commands:" in out + err


def test_an_unknown_command_is_answered_with_the_nearest(weft: Weft):
    code, out, err = weft("chek")
    assert (code, out) == (2, "")
    assert "check" in err


def test_an_unknown_option_is_an_error_of_usage(weft: Weft):
    code, _, err = weft("schema", "--nonsense")
    assert code == 2
    assert "--nonsense" in err


def failing(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RecipeError(["r.yaml:1: seed: must be x, but is y."]), 2, ["r.yaml:1: seed: must be x, but is y."]),
        (RecipeError(["r.yaml:1: a.", "r.yaml:2: b."]), 2, ["r.yaml:1: a.", "r.yaml:2: b.", "2 problems. Nothing was started."]),
        (CheckpointError("step 4: must verify, but is truncated."), 3, ["step 4: must verify, but is truncated."]),
        (RunBusyError("runs/a: must be free."), 8, ["runs/a: must be free."]),
        (Interrupted("Stopped."), 75, ["Stopped."]),
        (OSError(28, "No space left on device", "x"), EXIT_IO, ["[Errno 28] No space left on device: 'x'"]),
        (ZeroDivisionError("by zero"), EXIT_BUG, ["ZeroDivisionError: by zero", "This is a bug in Weft. Run again with --debug and report what it prints."]),
    ],
)  # fmt: skip
def test_errors_are_said_without_a_traceback(
    error: Exception, code: int, words: list[str], weft: Weft, command: Callable[..., None]
):
    command(failing(error))
    assert weft("env") == (code, "", "".join(f"{line}\n" for line in words))


@pytest.mark.parametrize("arguments", [("--debug", "env"), ("env", "--debug")])
def test_debug_shows_the_traceback_and_keeps_the_code(
    arguments: tuple[str, ...], weft: Weft, command: Callable[..., None]
):
    command(failing(CheckpointError("bad.")))
    code, _, err = weft(*arguments)
    assert code == 3
    assert err.startswith("Traceback")
    assert err.endswith("\nbad.\n")


def test_the_variable_asks_for_the_traceback_too(
    weft: Weft, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    command(failing(CheckpointError("bad.")))
    monkeypatch.setenv("WEFT_DEBUG", "1")
    assert "Traceback" in weft("env")[2]
    monkeypatch.setenv("WEFT_DEBUG", "0")
    assert "Traceback" not in weft("env")[2]


def test_an_interrupt_leaves_as_shells_expect(weft: Weft, command: Callable[..., None]):
    command(failing(KeyboardInterrupt()))
    assert weft("env")[0] == EXIT_INTERRUPTED


def test_a_command_may_leave_with_a_code_of_its_own(weft: Weft, command: Callable[..., None]):
    import typer

    command(failing(typer.Exit(9)))
    assert weft("env")[0] == 9


def test_the_arguments_are_those_of_the_process_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["weft", "--version"])
    assert app.main() == 0
    assert __version__ in capsys.readouterr().out
