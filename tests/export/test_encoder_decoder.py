"""What encoder-decoders learnt, as stock folders and PEFT folders; what no stock class says is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import AutoPeftModelForSeq2SeqLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from weft.core.example import Purpose, Row
from weft.core.network import Inference
from weft.errors import ExportError
from weft.export.bundle import Bundle
from weft.export.plain import TOLERANCE, export_plain
from weft.export.proof import probe_batch, stock_logits, weft_logits
from weft.task.batching import make_batch

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT asks under an old name

Make = Callable[..., Any]
STRATEGIES = {
    "full": "full",
    "lora": [{"train": "lora", "rank": 2, "sites": "attention"}],
    "adapter on a changed trunk": None,
    "prompt": [{"train": "prompt", "tokens": 3}],
    "prefix": [{"train": "prefix", "tokens": 3, "sites": "decoder.self_attention"}],
    "prefix everywhere": [{"train": "prefix", "tokens": 3}],
}


def stages(name: str) -> list[dict[str, object]]:
    if name == "adapter on a changed trunk":
        return [{"strategy": "decoder"}, {"strategy": "lora", "carry": {"trunk": "merge"}}]
    return [{"strategy": STRATEGIES[name], "lr": 1e-3}]


@pytest.fixture(scope="session")
def made(make: Make, tiny_t5: Path, tiny_bart: Path, decoder_tasks) -> Callable[[str, str], Any]:
    """Return a bundle by model and strategy: all tasks that a decoder can do, and no classification where asked."""
    known: dict[tuple[str, str], Any] = {}
    folders = {"t5": tiny_t5, "bart": tiny_bart}

    def get(kind: str, strategy: str) -> Any:
        if (kind, strategy) not in known:
            known[kind, strategy] = make(folders[kind], decoder_tasks, *stages(strategy))
        return known[kind, strategy]

    return get


def answers(bundle: Bundle, name: str, sentences: list[str]) -> list[str]:
    task = bundle.tasks[name]
    rows: list[Row] = [task.ask(sentence) for sentence in sentences]
    encoded: list[Any] = task.encode(rows, bundle.tokenizer, Purpose.ANSWER)
    batch = make_batch([(name, one) for one in encoded], bundle.tasks, pad=bundle.tokenizer.pad)
    with torch.inference_mode():
        return [str(answer.text) for answer in task.answers(Inference(bundle.network, batch), encoded)]


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_bundle_is_the_network_it_was_made_of(made, kind: str):
    one = made(kind, "full")
    bundle = one.open()
    batch = probe_batch(bundle)
    for name, task in bundle.tasks.items():
        found, expected = (weft_logits(network, task, batch) for network in (bundle.network, one.network))
        assert torch.equal(found, expected), name
    assert batch.replies is not None
    assert len(weft_logits(bundle.network, bundle.tasks["reply"], batch)) == batch.replies.layout.num_tokens


@pytest.mark.parametrize("strategy", ["full", "lora", "adapter on a changed trunk"])
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_writing_is_a_stock_seq2seq_model(
    made, kind: str, strategy: str, tmp_path: Path, sentences: list[str]
):
    bundle: Bundle = made(kind, strategy).open()
    results = {one.folder.name: one for one in export_plain(bundle, tmp_path, tasks=["reply"])}
    result = results["reply"]
    assert (result.loads_with, result.difference <= TOLERANCE) == ("AutoModelForSeq2SeqLM", True)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(result.folder).eval()
    batch, task = probe_batch(bundle), bundle.tasks["reply"]
    torch.testing.assert_close(
        stock_logits(model, task, batch), weft_logits(bundle.network, task, batch), rtol=1e-5, atol=1e-5
    )
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    asked = [f"who is {sentence}?" for sentence in sentences[:6]]
    given = tokenizer(asked, padding=True, return_tensors="pt")
    config = transformers.GenerationConfig(
        max_new_tokens=8,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.sep_token_id,
        decoder_start_token_id=model.config.decoder_start_token_id,
    )
    model.generation_config = transformers.GenerationConfig()
    grown = model.generate(
        **{key: given[key] for key in ("input_ids", "attention_mask")}, generation_config=config
    )
    texts = tokenizer.batch_decode(grown[:, 1:], skip_special_tokens=True)
    assert answers(bundle, "reply", asked) == [text.strip() for text in texts]
    if strategy == "full":
        return
    config_file = tmp_path / "reply-adapter" / "adapter_config.json"
    assert json.loads(config_file.read_text())["task_type"] == "SEQ_2_SEQ_LM"
    adapted = AutoPeftModelForSeq2SeqLM.from_pretrained(str(tmp_path / "reply-adapter")).eval()
    torch.testing.assert_close(
        stock_logits(adapted, task, batch), weft_logits(bundle.network, task, batch), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("strategy", ["full", "lora", "adapter on a changed trunk"])
def test_tags_on_the_encoder_are_a_stock_t5(made, strategy: str, tmp_path: Path):
    bundle: Bundle = made("t5", strategy).open()
    results = {one.folder.name: one for one in export_plain(bundle, tmp_path, tasks=["names"])}
    model = transformers.AutoModelForTokenClassification.from_pretrained(results["names"].folder).eval()
    assert type(model).__name__ == "T5ForTokenClassification"
    batch, task = probe_batch(bundle), bundle.tasks["names"]
    expected = weft_logits(bundle.network, task, batch)
    torch.testing.assert_close(stock_logits(model, task, batch), expected, rtol=1e-5, atol=1e-5)
    if strategy == "lora":
        bare = transformers.AutoModelForTokenClassification.from_pretrained(
            bundle.base.folder.path, num_labels=len(task.stock().labels)
        )
        adapted = PeftModel.from_pretrained(bare, tmp_path / "names-adapter").eval()
        torch.testing.assert_close(stock_logits(adapted, task, batch), expected, rtol=1e-5, atol=1e-5)


def test_tags_of_an_encoder_alone_are_a_stock_t5(make: Make, tiny_t5: Path, encoder_tasks, tmp_path: Path):
    bundle: Bundle = make(tiny_t5, {"names": encoder_tasks["names"]}, {"strategy": "full"}).open()
    assert not any("decoder" in path for path in bundle.parts.delta)
    (result,) = export_plain(bundle, tmp_path, tasks=["names"])
    model = transformers.AutoModelForTokenClassification.from_pretrained(result.folder).eval()
    batch, task = probe_batch(bundle), bundle.tasks["names"]
    torch.testing.assert_close(stock_logits(model, task, batch), weft_logits(bundle.network, task, batch))


@pytest.mark.parametrize(("kind", "name"), [("t5", "mood"), ("bart", "mood"), ("bart", "names")])
def test_what_no_stock_class_says_is_refused_and_leaves_nothing(made, kind: str, name: str, tmp_path: Path):
    bundle: Bundle = made(kind, "full").open()
    with pytest.raises(ExportError, match=r"must fit the last layer|must know this architecture"):
        export_plain(bundle, tmp_path / "out", tasks=[name])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("strategy", ["prompt", "prefix"])
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_positions_are_where_peft_puts_them(
    make: Make, decoder_tasks, request, kind: str, strategy: str, tmp_path: Path
):
    """A prompt in front of what the encoder reads, a prefix of what the decoder writes."""
    tasks = {"reply": decoder_tasks["reply"]}
    one = make(request.getfixturevalue(f"tiny_{kind}"), tasks, *stages(strategy))
    bundle: Bundle = one.open()
    (home,) = (one.folder / "adapters").iterdir()
    assert json.loads((home / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
    (result,) = export_plain(bundle, tmp_path, tasks=["reply"])
    assert result.loads_with == "PeftModel on AutoModelForSeq2SeqLM"
    adapted = AutoPeftModelForSeq2SeqLM.from_pretrained(str(result.folder)).eval()
    batch, task = probe_batch(bundle), bundle.tasks["reply"]
    expected = weft_logits(bundle.network, task, batch)
    torch.testing.assert_close(stock_logits(adapted, task, batch), expected, rtol=1e-5, atol=2e-5)
    bare = transformers.AutoModelForSeq2SeqLM.from_pretrained(bundle.base.folder.path).eval()
    assert (stock_logits(bare, task, batch) - expected).abs().max() > 1e-3


def test_a_prefix_that_peft_cannot_place_stays_in_the_bundle(
    make: Make, decoder_tasks, tiny_t5: Path, tmp_path: Path
):
    bundle: Bundle = make(tiny_t5, {"reply": decoder_tasks["reply"]}, *stages("prefix everywhere")).open()
    with pytest.raises(
        ExportError, match=r"edits positions, and .* as PEFT's stands in front of a decoder's own"
    ):
        export_plain(bundle, tmp_path / "out", tasks=["reply"])
    mixed: Bundle = make(tiny_t5, decoder_tasks, *stages("prefix")).open()
    with pytest.raises(ExportError, match=r"edits positions, and .* no decoder. Use the bundle itself"):
        export_plain(mixed, tmp_path / "out", tasks=["names"])  # T5ForTokenClassification has no decoder
    (result,) = export_plain(mixed, tmp_path / "out", tasks=["reply"])
    assert result.loads_with == "PeftModel on AutoModelForSeq2SeqLM"


def test_a_later_t5_keeps_its_own_output_embedding(make: Make, tiny_t5: Path, decoder_tasks, tmp_path: Path):
    folder = tmp_path / "later"
    shutil.copytree(tiny_t5, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["scale_decoder_outputs"]
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    tensors = load_file(folder / "model.safetensors")
    own = torch.randn(tensors["shared.weight"].shape, generator=torch.Generator().manual_seed(0))
    save_file({**tensors, "lm_head.weight": own}, folder / "model.safetensors", metadata={"format": "pt"})
    bundle: Bundle = make(folder, {"reply": decoder_tasks["reply"]}, {"strategy": "full"}).open()
    assert {"lm_head.weight", "embeddings.word.weight"} <= bundle.parts.delta.keys()
    (result,) = export_plain(bundle, tmp_path / "out", tasks=["reply"])
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(result.folder).eval()
    batch, task = probe_batch(bundle), bundle.tasks["reply"]
    expected = weft_logits(bundle.network, task, batch)
    torch.testing.assert_close(stock_logits(model, task, batch), expected, rtol=1e-5, atol=1e-4)
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
