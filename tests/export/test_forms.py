"""Choices, ordered labels and long documents as stock models: what each folder says, and what it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from weft.core.example import Encoded, Purpose
from weft.core.network import Inference
from weft.errors import ExportError
from weft.export.bundle import Bundle
from weft.export.plain import TOLERANCE, export_plain
from weft.task.batching import make_batch

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT asks under an old name

Make = Callable[..., Any]
TASKS: dict[str, dict[str, object]] = {
    "pick": {"kind": "choice", "train": "pick.jsonl"},
    "stars": {"kind": "ordinal", "train": "stars.csv"},
    "mood": {"kind": "classification", "train": "mood.csv", "windows": {"pooling": "max", "stride": 4}},
}


@pytest.fixture(scope="module")
def bundle(make: Make, tiny_bert: Path) -> Bundle:
    """Return a bundle of tasks after LoRA."""
    return make(tiny_bert, TASKS, {"strategy": "lora"}).open()


@pytest.fixture(scope="module")
def out(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where all tasks were exported."""
    folder = tmp_path_factory.mktemp("out")
    results = export_plain(bundle, folder, tasks=tuple(TASKS))
    assert all(result.difference <= TOLERANCE for result in results)
    assert [result.folder.name for result in results] == [*TASKS, *(f"{name}-adapter" for name in TASKS)]
    assert [result.windows for result in results if result.folder.name == "pick"] == [None]
    return folder


def ask(bundle: Bundle, name: str, text: str, pair: str | None = None) -> Encoded:
    task = bundle.tasks[name]
    (encoded,) = task.encode([task.ask(text, pair)], bundle.tokenizer, Purpose.ANSWER)
    assert isinstance(encoded, Encoded)
    return encoded


def answer(bundle: Bundle, name: str, encoded: Encoded) -> Any:
    batch = make_batch([(name, encoded)], bundle.tasks, pad=bundle.tokenizer.pad)
    with torch.inference_mode():
        return bundle.tasks[name].answers(Inference(bundle.network, batch), [encoded])[0]


@pytest.mark.parametrize("is_adapter", [False, True])
def test_stock_multiple_choice_models_choose_the_same(
    bundle: Bundle, out: Path, sentences: list[str], is_adapter: bool
):
    folder = out / ("pick-adapter" if is_adapter else "pick")
    if is_adapter:
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        model = PeftModel.from_pretrained(
            transformers.AutoModelForMultipleChoice.from_pretrained(base), folder
        )
    else:
        model = transformers.AutoModelForMultipleChoice.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for number in range(20):
        text, choices = sentences[number], sentences[number + 1 : number + 4]
        inputs = tokenizer([text] * 3, choices, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = model.eval()(**{name: value[None] for name, value in inputs.items()}).logits
        found = answer(bundle, "pick", ask(bundle, "pick", text, "|".join(choices)))
        assert list(found.probabilities.values()) == pytest.approx(logits.softmax(1)[0].tolist(), abs=1e-5)
        assert found.text == choices[int(logits.argmax())]


def test_a_stock_classifier_says_whether_each_label_is_passed(
    bundle: Bundle, out: Path, sentences: list[str]
):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out / "stars").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "stars")
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {0: "> 1", 1: "> 2 given > 1", 2: "> 3 given > 2"}
    for text in sentences[:10]:
        with torch.inference_mode():
            further = model(**tokenizer(text, return_tensors="pt")).logits.sigmoid()[0]
        shares = answer(bundle, "stars", ask(bundle, "stars", text)).probabilities
        assert [1 - shares["1"], shares["3"] + shares["4"], shares["4"]] == pytest.approx(
            further.cumprod(0).tolist(), abs=1e-5
        )


def test_a_stock_classifier_answers_windows_and_its_config_says_how_they_become_one(
    bundle: Bundle, out: Path, sentences: list[str]
):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out / "mood").eval()
    assert model.config.windows == {"pooling": "max", "stride": 4, "most": 16}
    encoded = ask(bundle, "mood", " ".join(sentences[:30]))
    assert len(encoded.texts) > 2
    with torch.inference_mode():
        each = torch.cat([model(input_ids=torch.tensor([text.tokens])).logits for text in encoded.texts])
    shares = answer(bundle, "mood", encoded).probabilities
    assert list(shares.values()) == pytest.approx(each.amax(0).softmax(0).tolist(), abs=1e-5)


def test_what_decoders_have_no_class_for_is_refused(make: Make, stories260k: Path, tmp_path: Path):
    tasks = {name: TASKS[name] for name in ("pick", "stars")}
    decoder = make(stories260k, tasks, {"strategy": "top 1"}).open()
    with pytest.raises(ExportError, match="AutoModelForMultipleChoice must know this architecture"):
        export_plain(decoder, tmp_path / "pick", tasks=("pick",))
    assert list(tmp_path.iterdir()) == []
    (result,) = export_plain(decoder, tmp_path / "stars", tasks=("stars",))
    assert result.loads_with == "AutoModelForSequenceClassification"


def test_roberta_chooses_by_its_pooler_and_what_pools_in_another_way_is_refused(
    make: Make, tiny_bert: Path, tmp_path: Path
):
    sizes = {"vocab_size": transformers.AutoConfig.from_pretrained(tiny_bert).vocab_size, "pad_token_id": 0}
    roberta = transformers.RobertaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **sizes
    )
    distilbert = transformers.DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, **sizes)
    for name, config in (("roberta", roberta), ("distilbert", distilbert)):
        folder = tmp_path / name
        shutil.copytree(tiny_bert, folder)
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        opened = make(folder, {"pick": TASKS["pick"]}, {"strategy": "full"}).open()
        if name == "roberta":
            (result,) = export_plain(opened, tmp_path / "out", tasks=("pick",))
            assert result.difference <= TOLERANCE
        else:  # a layer and a ReLU that no base has stand before the last one
            with pytest.raises(ExportError, match="must compute what the bundle computes"):
                export_plain(opened, tmp_path / "out", tasks=("pick",))
