"""LoRA instruction tuning of the small decoder; the dev loss is taken by stock transformers on what is exported."""

from __future__ import annotations

from typing import Any

from bench.decoder import MODEL, dev_loss, load
from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import epochs_of, recipe, run
from bench.rates import DECODER_BATCH, DECODER_TOKENS, RATES

TASK = "answers"


def main() -> None:
    order, clock = Order.read(), Clock()
    # Answers are generated for every dev row after each epoch; one token each keeps that short and changes no step.
    task = (
        f"{TASK}: {{kind: generation, train: 'train.jsonl[:{order.rows}]', dev: dev.jsonl, "
        "template: '{instruction}', max_new_tokens: 1}"
    )
    stage = f"strategy: lora, lr: {RATES['decoder']}, batch: {DECODER_BATCH}, {epochs_of(order)}"
    model = f"{{path: {MODEL}, max_tokens: {DECODER_TOKENS}}}"
    ran = run(recipe([task], stage, order, model=model), order, clock)
    for epoch, seconds in ran.epochs.items():
        clock.add(f"epoch {epoch}", seconds, order.rows)
    peak = peak_mib()
    report(clock, [dev_loss(exported(order), load(order.files)[2])], peak=peak)


def exported(order: Order) -> Any:
    """Return the trained model as stock transformers and peft load it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from weft.export.bundle import open_bundle
    from weft.export.plain import export_plain
    from weft.recipe.spec import Precision

    made = export_plain(
        open_bundle(order.work / "run", base=order.files / MODEL, precision=Precision.FP32),
        order.work / "plain",
        tasks=(TASK,),
    )
    folder = made[0].folder
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder)
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(order.files / MODEL), str(folder))


if __name__ == "__main__":
    main()
