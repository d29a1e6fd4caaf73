"""One task trained by one method of PEFT under the Trainer; the job's name is the method, the contestant's the task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from bench.candidates import LINEAR
from bench.order import Clock, Order, peak_mib, report
from bench.peers.sentences import fit, judged, minilm
from bench.peers.tasks import KINDS as JOBS
from bench.peers.trainer import RANK, Config, Plan, model_options
from bench.rawfiles import rows_of
from bench.strategies import BATCH, KINDS
from weft.strategy.rates import Rate, of_matrices
from weft.strategy.registry import method

EVERYWHERE = rf".*\.layer\.\d+\.{LINEAR}"
KEY_VALUE, DOWN = r"attention\.self\.(key|value)", r"(?<!attention\.)output\.dense"


def main() -> None:
    order, clock = Order.read(), Clock()
    name, how = order.contestant, order.job
    base, rows = minilm(order), rows_of(order.files / f"{name}.train.jsonl", order.rows)
    job = JOBS[KINDS[name]](AutoTokenizer.from_pretrained(base), rows)
    model = job.model(base, model_options(Config.TUNED))
    if how != "full":
        from peft import get_peft_model

        model = get_peft_model(model, CONFIGS[how](_kind(KINDS[name])))
    rate = _rate(METHODS.get(how, how), AutoConfig.from_pretrained(base).hidden_size)
    plan = Plan(Config.TUNED, rate, BATCH, order.epochs, order.seed, order.work, ("training",))
    trainer = fit(job, model, plan, rows, clock=clock)
    peak = peak_mib()
    score = judged(job, trainer, rows_of(order.files / f"{name}.test.jsonl"), name)
    model.save_pretrained(order.work / "saved")
    facts = {
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "values": sum(p.numel() for p in model.parameters()),
        "stored_bytes": sum(path.stat().st_size for path in Path(order.work / "saved").glob("*.safetensors")),
    }
    report(clock, [score], peak=peak, facts=facts)


def _rate(name: str, width: int) -> float:
    """Return Weft's default rate of a method."""
    how = method(name)
    return of_matrices(Rate(how.lr, ""), width).value if how.moves_matrices else how.lr


def _kind(family: str) -> Any:
    from peft import TaskType

    return TaskType.TOKEN_CLS if family == "tagging" else TaskType.SEQ_CLS


def _lora(kind: Any, *, rslora: bool = False, dora: bool = False) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type=kind,
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=EVERYWHERE,
        use_rslora=rslora,
        use_dora=dora,
    )


def _ia3(kind: Any) -> Any:
    from peft import IA3Config

    return IA3Config(
        task_type=kind,
        target_modules=rf".*\.layer\.\d+\.({KEY_VALUE}|{DOWN})",
        feedforward_modules=rf".*\.layer\.\d+\.{DOWN}",
    )


def _prefix(kind: Any) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(task_type=kind, num_virtual_tokens=20)


METHODS = {"rslora": "lora", "ptuning-v2": "prefix"}
"""Whose default rate is taken, where it is not the method's own name."""
CONFIGS: dict[str, Callable[[Any], Any]] = {
    "lora": _lora,
    "rslora": partial(_lora, rslora=True),
    "dora": partial(_lora, dora=True),
    "ia3": _ia3,
    "ptuning-v2": _prefix,
}


if __name__ == "__main__":
    main()
