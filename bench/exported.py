"""What a run exports, loaded by stock transformers and peft, beside the run's own bundle on real rows."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from weft.build.catalogue import open_recipe
from weft.core.example import Encoded
from weft.core.stock import StockForm
from weft.evaluate.predict import batches_by_length
from weft.export.bundle import Bundle, open_bundle
from weft.export.plain import export_plain
from weft.export.proof import stock_logits, weft_logits
from weft.recipe.spec import Precision
from weft.run.context import open_context
from weft.run.folder import RunFolder
from weft.run.origin import read_origin
from weft.run.stopping import StopFlag
from weft.task.batching import make_batch

LOADERS = {
    StockForm.SEQUENCE: "AutoModelForSequenceClassification",
    StockForm.TOKENS: "AutoModelForTokenClassification",
    StockForm.SPAN: "AutoModelForQuestionAnswering",
    StockForm.CAUSAL: "AutoModelForCausalLM",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--rows", type=int, default=500)
    choices = parser.parse_args()
    bundle = open_bundle(choices.run, device=torch.device("cpu"), precision=Precision.FP32)
    folder = RunFolder(choices.run)
    root = Path(read_origin(folder)["root"])
    data = open_context(open_recipe(folder.recipe), folder, root=root, stop=StopFlag()).data
    with tempfile.TemporaryDirectory() as out:
        done = export_plain(bundle, Path(out), tasks=tuple(bundle.tasks))
        for one in done:
            name = one.folder.name.removesuffix("-adapter")
            rows = (data.tasks[name].test or data.tasks[name].dev)[: choices.rows]
            difference, flips, outputs = compare(bundle, name, load(bundle, name, one.folder), rows)
            sys.stdout.write(
                f"{one.folder.name}: {one.loads_with}: {len(rows)} rows, {outputs} outputs, "
                f"largest logit difference {difference:.1e}, {flips} label flips\n"
            )


def load(bundle: Bundle, name: str, folder: Path) -> Any:
    """Return the folder as stock transformers, or peft on stock transformers, loads it."""
    import transformers

    loader = getattr(transformers, LOADERS[bundle.tasks[name].stock().form])
    if not (folder / "adapter_config.json").is_file():
        return loader.from_pretrained(folder).eval()
    from peft import PeftConfig, PeftModel

    labels = len(bundle.tasks[name].stock().labels)
    base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    return PeftModel.from_pretrained(loader.from_pretrained(base, num_labels=labels), str(folder)).eval()


def compare(bundle: Bundle, name: str, model: Any, rows: tuple[Encoded, ...]) -> tuple[float, int, int]:
    """Return the largest difference of a logit, the number of changed labels, and of rows or tokens compared."""
    task, difference, flips, outputs = bundle.tasks[name], 0.0, 0, 0
    for group in batches_by_length([len(row.tokens) for row in rows], 4096):
        batch = make_batch([(name, rows[index]) for index in group], bundle.tasks, pad=bundle.tokenizer.pad)
        ours, theirs = weft_logits(bundle.network, task, batch), stock_logits(model, task, batch)
        difference = max(difference, float((ours - theirs).abs().max()))
        if ours.shape[1] > 1:
            flips += int((ours.argmax(1) != theirs.argmax(1)).sum())
        outputs += ours.shape[0]
    return difference, flips, outputs


if __name__ == "__main__":
    main()
