"""Stock transformers and peft load what was exported, and compute what the bundle computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoConfig, AutoTokenizer

from weft.core.example import Encoded, Purpose, Row
from weft.core.network import Inference
from weft.core.parts import adapter_of
from weft.core.stock import StockForm
from weft.errors import ExportError
from weft.export.bundle import Bundle, open_bundle
from weft.export.plain import TOLERANCE, export_plain
from weft.export.proof import probe_batch, stock_logits, weft_logits
from weft.recipe.spec import Precision
from weft.task.batching import make_batch

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT asks under an old name

Made = Any  # tests/export/conftest.py
Make = Callable[..., Made]
LOADERS = {
    StockForm.SEQUENCE: "AutoModelForSequenceClassification",
    StockForm.TOKENS: "AutoModelForTokenClassification",
    StockForm.CAUSAL: "AutoModelForCausalLM",
}


def our_logits(bundle: Bundle, name: str, sentences: list[str]) -> tuple[list[torch.Tensor], list[Encoded]]:
    """Return the bundle's logits of each sentence, and the sentences as the bundle reads them."""
    task = bundle.tasks[name]
    pair = sentences[0] if len(task.inputs) == 2 and task.kind == "regression" else None
    encoded = [one for one in encode(bundle, name, sentences, pair) if isinstance(one, Encoded)]
    assert len(encoded) == len(sentences)
    if task.stock().form is not StockForm.SEQUENCE:
        return [], encoded
    batch = make_batch([(name, one) for one in encoded], bundle.tasks, pad=bundle.tokenizer.pad)
    with torch.inference_mode():
        return list(Inference(bundle.network, batch).outputs(name).float()), encoded


def encode(bundle: Bundle, name: str, sentences: list[str], pair: str | None) -> list[Any]:
    task = bundle.tasks[name]
    rows: list[Row] = [task.ask(sentence, pair) for sentence in sentences]
    return task.encode(rows, bundle.tokenizer, Purpose.ANSWER)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """No logit differs by more than 1e-5, of the largest logit where that is above 1."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(ours.abs().max()))


def check_stock(bundle: Bundle, name: str, model: Any, folder: Path, sentences: list[str]) -> None:
    """A hundred sentences through the folder's own tokenizer and model: same logits, same labels."""
    task = bundle.tasks[name]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours, encoded = our_logits(bundle, name, sentences)
    if task.stock().form is StockForm.SEQUENCE:
        pairs = [sentences[0]] * len(sentences) if len(task.inputs) == 2 else None
        inputs = tokenizer(sentences, pairs, padding=True, return_tensors="pt")
        with torch.inference_mode():
            theirs = model(**inputs).logits
        assert [tuple(row[row != tokenizer.pad_token_id].tolist()) for row in inputs["input_ids"]] == [
            tuple(token for token in one.tokens if token != tokenizer.pad_token_id) for one in encoded
        ]
        ours_RC = torch.stack(ours)
        assert_near(ours_RC, theirs)
        assert torch.equal(ours_RC.argmax(1), theirs.argmax(1))
        return
    batch = make_batch([(name, one) for one in encoded], bundle.tasks, pad=bundle.tokenizer.pad)
    ours_TC, theirs_TC = weft_logits(bundle.network, task, batch), stock_logits(model, task, batch)
    assert ours_TC.shape[0] == batch.layout.num_tokens > 2 * len(sentences)
    assert_near(ours_TC, theirs_TC)
    assert torch.equal(ours_TC.argmax(1), theirs_TC.argmax(1))


@pytest.mark.parametrize("made", ["merged_bert", "adapter_bert", "peft_bert", "adapter_llama"])
def test_stock_classes_load_what_was_exported(
    made: str, request: pytest.FixtureRequest, sentences: list[str], tmp_path: Path
):
    bundle: Bundle = request.getfixturevalue(made).open()
    results = export_plain(bundle, tmp_path / "out", tasks=tuple(bundle.tasks))
    by_folder = {result.folder.name: result for result in results}
    adapters = [f"{name}-adapter" for name in bundle.tasks] if bundle.parts.adapters else []
    assert list(by_folder) == [*bundle.tasks, *adapters]
    for name, task in bundle.tasks.items():
        result = by_folder[name]
        assert result.loads_with == LOADERS[task.stock().form]
        assert result.difference <= TOLERANCE
        assert result.folder == tmp_path / "out" / name
        model = getattr(transformers, result.loads_with).from_pretrained(result.folder).eval()
        check_stock(bundle, name, model, result.folder, sentences)
    shipped = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert shipped <= {".json", ".safetensors", ".txt", ".jinja"}


@pytest.mark.filterwarnings(
    "ignore:Specified to not (save|load) vera_A:UserWarning"
)  # they follow from the config
@pytest.mark.parametrize("made", ["adapter_bert", "peft_bert", "adapter_llama"])
def test_peft_loads_the_adapters(
    made: str, request: pytest.FixtureRequest, sentences: list[str], tmp_path: Path
):
    bundle: Bundle = request.getfixturevalue(made).open()
    results = export_plain(bundle, tmp_path, tasks=tuple(bundle.tasks))
    types: set[str] = set()
    kinds: list[tuple[str, int]] = []
    for name, task in bundle.tasks.items():
        folder = tmp_path / f"{name}-adapter"
        adapter = json.loads((folder / "adapter_config.json").read_text())
        types.add(adapter["task_type"])
        kinds.append((adapter["peft_type"], adapter["r"]))
        base = Path(adapter["base_model_name_or_path"])
        assert base == (tmp_path / "base-of-adapters" if bundle.parts.delta else bundle.base.folder.path)
        labels = task.stock().labels
        options = {"num_labels": len(labels), "pad_token_id": bundle.tokenizer.pad} if labels else {}
        config = AutoConfig.from_pretrained(base, **options)
        model = getattr(transformers, LOADERS[task.stock().form]).from_pretrained(base, config=config)
        check_stock(bundle, name, PeftModel.from_pretrained(model, folder).eval(), folder, sentences)
    if made == "peft_bert":
        assert (kinds, types) == ([("VERA", 8)], {"SEQ_CLS"})
        return
    assert types == {"SEQ_CLS", "TOKEN_CLS"} | ({"CAUSAL_LM"} if "reply" in bundle.tasks else set())
    assert all(result.difference <= TOLERANCE for result in results)


def test_peft_finds_the_base_by_itself(adapter_llama: Made, tmp_path: Path):
    bundle = adapter_llama.open()
    export_plain(bundle, tmp_path, tasks=["reply"])
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "reply-adapter").eval()
    batch = probe_batch(bundle)
    task = bundle.tasks["reply"]
    ours, theirs = weft_logits(bundle.network, task, batch), stock_logits(model, task, batch)
    assert_near(ours, theirs)


def check_exported(bundle: Bundle, out: Path, name: str, sentences: list[str], *, rank: int) -> None:
    """Both folders of a task equal the bundle: the merged one in stock transformers, the other through plain peft."""
    form = bundle.tasks[name].stock().form
    loader = getattr(transformers, LOADERS[form])
    check_stock(bundle, name, loader.from_pretrained(out / name).eval(), out / name, sentences)
    folder = out / f"{name}-adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == rank
    options = {"num_labels": len(bundle.tasks[name].stock().labels), "pad_token_id": bundle.tokenizer.pad}
    base = loader.from_pretrained(
        config["base_model_name_or_path"], **({} if form is StockForm.CAUSAL else options)
    )
    check_stock(bundle, name, PeftModel.from_pretrained(base, folder).eval(), folder, sentences)


def test_stacked_adapters_are_exported_as_one(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], sentences: list[str], tmp_path: Path
):
    tasks = {"mood": encoder_tasks["mood"]}
    made = make(tiny_bert, tasks, {"strategy": "lora"}, {"strategy": "lora", "carry": {"trunk": "stack"}})
    bundle = made.open()
    assert len(bundle.parts.adapters) == 2
    results = export_plain(bundle, tmp_path, tasks=["mood"])
    assert [result.folder.name for result in results] == ["mood", "mood-adapter"]
    check_exported(bundle, tmp_path, "mood", sentences, rank=16)


OWN = {"strategy": [{"train": "lora", "rank": 4, "per_task": True}]}


def same_logits(bundle: Bundle, name: str, other: str) -> bool:
    """Whether one task's head reads the same from both tasks' rows: only if they pass through the same adapters."""
    task, batch = bundle.tasks[name], probe_batch(bundle)
    ours = weft_logits(bundle.network, task, batch)
    bundle.network.routes = {**bundle.network.routes, name: bundle.network.routes[other]}
    return bool(torch.allclose(ours, weft_logits(bundle.network, task, batch), atol=1e-3))


SHARING = {"strategy": [{"train": "mtl-lora", "rank": 4}]}
STACKED = {"carry": {"trunk": "stack"}}


@pytest.mark.parametrize(
    "stages",
    [
        (OWN,),
        (SHARING,),
        ({"strategy": "lora"}, {**OWN, **STACKED}),
        ({"strategy": "lora"}, {**SHARING, **STACKED}),
    ],
)
def test_each_task_is_exported_with_the_shared_adapters_and_its_own(
    make: Make,
    tiny_bert: Path,
    encoder_tasks: dict[str, Any],
    sentences: list[str],
    tmp_path: Path,
    stages: tuple[dict[str, Any], ...],
):
    tasks = {name: encoder_tasks[name] for name in ("mood", "names")}
    made = make(tiny_bert, tasks, *stages)
    bundle = made.open()
    names = {state.name for state in bundle.parts.adapters}
    assert {adapter_of(route) for own in bundle.network.routes.values() for route in own} <= names
    assert len(names) == len(stages) + ("per_task" in stages[-1]["strategy"][0])
    results = export_plain(bundle, tmp_path, tasks=tuple(tasks))
    assert [one.folder.name for one in results] == ["mood", "names", "mood-adapter", "names-adapter"]
    for name in tasks:
        check_exported(bundle, tmp_path, name, sentences, rank=4 if len(stages) == 1 else 12)
    assert not same_logits(made.open(), "mood", "names"), "the tasks' adapters differ in what they do"


def test_tasks_of_a_decoder_are_exported_with_their_own_adapters(
    make: Make, stories260k: Path, decoder_tasks: dict[str, Any], sentences: list[str], tmp_path: Path
):
    tasks = {name: decoder_tasks[name] for name in ("mood", "reply")}
    bundle = make(stories260k, tasks, {"strategy": "norm"}, OWN | {"carry": {"trunk": "merge"}}).open()
    export_plain(bundle, tmp_path, tasks=tuple(tasks))
    for name in tasks:
        check_exported(bundle, tmp_path, name, sentences, rank=4)


def test_an_adapter_of_one_task_only_leaves_the_other_as_it_is(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], sentences: list[str], tmp_path: Path
):
    tasks = {name: encoder_tasks[name] for name in ("mood", "names")}
    expert = {**OWN, "tasks": ["mood"], "carry": {"trunk": "stack"}}
    bundle = make(tiny_bert, tasks, {"strategy": "head"}, expert).open()
    results = export_plain(bundle, tmp_path, tasks=tuple(tasks))
    assert [one.folder.name for one in results] == ["mood", "names", "mood-adapter"]
    check_exported(bundle, tmp_path, "mood", sentences, rank=4)
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "names").eval()
    check_stock(bundle, "names", model, tmp_path / "names", sentences)


def lora(**keys: Any) -> dict[str, Any]:
    return {"strategy": [{"train": "lora", **keys}]}


def dora(sites: str, rank: int) -> dict[str, Any]:
    return {"strategy": [{"train": "dora", "sites": sites, "rank": rank}]}


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ({"strategy": "ia3"}, {"strategy": "ia3"}, "IA3"),
        (dora("attention", 4), dora("ffn", 2), "LORA"),
    ],
)
def test_several_of_ia3_or_dora_are_exported_as_one(
    make: Make,
    tiny_bert: Path,
    encoder_tasks: dict[str, Any],
    sentences: list[str],
    tmp_path: Path,
    first: dict[str, Any],
    second: dict[str, Any],
    kind: str,
):
    bundle = make(tiny_bert, {"mood": encoder_tasks["mood"]}, first, {**second, **STACKED}).open()
    assert len(bundle.parts.adapters) == 2
    results = export_plain(bundle, tmp_path, tasks=["mood"])
    assert [result.folder.name for result in results] == ["mood", "mood-adapter"]
    folder = tmp_path / "mood-adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == kind
    loader = transformers.AutoModelForSequenceClassification
    options = {"num_labels": len(bundle.tasks["mood"].stock().labels), "pad_token_id": bundle.tokenizer.pad}
    base = loader.from_pretrained(config["base_model_name_or_path"], **options)
    check_stock(bundle, "mood", PeftModel.from_pretrained(base, folder).eval(), folder, sentences)


def test_adapters_that_do_not_add_up_to_one_are_exported_merged(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], tmp_path: Path
):
    tasks = {"mood": encoder_tasks["mood"]}
    stages = (lora(dropout=0.1), {**lora(dropout=0.2), **STACKED})  # PEFT's has one
    (result,) = export_plain(make(tiny_bert, tasks, *stages).open(), tmp_path, tasks=["mood"])
    assert result.folder.name == "mood"


def test_an_adapter_that_no_weights_can_say_is_refused(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], tmp_path: Path
):
    bundle = make(tiny_bert, {"mood": encoder_tasks["mood"]}, {"strategy": "pfeiffer"}).open()
    with pytest.raises(
        ExportError, match=r"^mood: adapters must edit weights .* stage0 \(adapter\) edits output"
    ):
        export_plain(bundle, tmp_path / "out", tasks=["mood"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT counts them itself
@pytest.mark.parametrize(
    ("strategy", "model", "tasks"),
    [
        ("ptuning-v2", "tiny_bert", ("mood", "grade", "names")),
        ("prefix", "tiny_bert", ("mood",)),
        ("prompt", "tiny_bert", ("names",)),
        ("prompt", "stories260k", ("reply", "names")),
        ("ptuning-v2", "stories260k", ("reply", "names")),
    ],
)
def test_virtual_positions_are_exported_as_peft_folders_only(
    make: Make,
    encoder_tasks: dict[str, Any],
    decoder_tasks: dict[str, Any],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    strategy: str,
    model: str,
    tasks: tuple[str, ...],
):
    known = encoder_tasks if model == "tiny_bert" else decoder_tasks
    made = make(request.getfixturevalue(model), {name: known[name] for name in tasks}, {"strategy": strategy})
    results = export_plain(made.open(), tmp_path, tasks=tasks)
    assert [one.folder.name for one in results] == [f"{name}-adapter" for name in tasks]
    assert all(one.difference <= 1e-5 for one in results)


def test_positions_beside_another_method_say_why_peft_has_no_folder(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], tmp_path: Path
):
    rules = [{"train": "lora"}, {"train": "prefix", "sites": "kv"}]
    bundle = make(tiny_bert, {"mood": encoder_tasks["mood"]}, {"strategy": rules}).open()
    with pytest.raises(
        ExportError, match=r"\(prefix\) edits positions, .* as a row passes through lora and prefix"
    ):
        export_plain(bundle, tmp_path / "out", tasks=["mood"])


def test_a_module_with_parameters_of_its_own_is_exported_with_what_lies_in_it(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], tmp_path: Path
):
    """DeBERTa's attention has biases beside its projection; no name table knows it."""
    from transformers import AutoTokenizer, DebertaConfig, DebertaModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    config = DebertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    DebertaModel(config).save_pretrained(tmp_path / "deberta")
    tokenizer.save_pretrained(tmp_path / "deberta")
    made = make(tmp_path / "deberta", {"names": encoder_tasks["names"]}, {"strategy": "full"})
    (result,) = export_plain(made.open(), tmp_path / "out", tasks=["names"])
    assert result.difference <= 1e-5


def test_a_prompt_that_peft_would_pool_is_refused(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], tmp_path: Path
):
    """PEFT's classifier on an encoder reads the first virtual token, Weft's the row's own first."""
    bundle = make(tiny_bert, {"mood": encoder_tasks["mood"]}, {"strategy": "prompt"}).open()
    with pytest.raises(
        ExportError, match=r"^mood: the exported model must compute .* may pool in another way"
    ):
        export_plain(bundle, tmp_path / "out", tasks=["mood"])


def test_the_configuration_names_labels_and_problem(merged_bert: Made, tmp_path: Path):
    export_plain(merged_bert.open(), tmp_path, tasks=["mood", "topics", "grade", "names"])
    configs = {path.name: AutoConfig.from_pretrained(path) for path in tmp_path.iterdir()}
    assert configs["mood"].id2label == {0: "calm", 1: "happy", 2: "sad"}
    assert configs["mood"].problem_type == "single_label_classification"
    assert configs["topics"].label2id == {"a": 0, "b": 1, "c": 2}
    assert configs["topics"].problem_type == "multi_label_classification"
    assert (configs["grade"].num_labels, configs["grade"].problem_type) == (1, "regression")
    assert configs["names"].id2label[0] == "O"


def test_pipelines_answer_as_the_bundle_does(merged_bert: Made, sentences: list[str], tmp_path: Path):
    bundle = merged_bert.open()
    export_plain(bundle, tmp_path, tasks=["mood"])
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "mood"), device="cpu")
    _, encoded = our_logits(bundle, "mood", sentences[:20])
    batch = make_batch([("mood", one) for one in encoded], bundle.tasks, pad=bundle.tokenizer.pad)
    with torch.inference_mode():
        answers = bundle.tasks["mood"].answers(Inference(bundle.network, batch), encoded)
    assert [found["label"] for found in classify(sentences[:20])] == [answer.label for answer in answers]


def mean_bundle(make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any]) -> Bundle:
    tasks = {"names": encoder_tasks["names"], "mood": {**encoder_tasks["mood"], "pooling": "mean"}}
    return make(tiny_bert, tasks, {"strategy": "head"}).open()


def test_a_head_that_pools_in_another_way_is_refused_and_leaves_nothing(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], tmp_path: Path
):
    bundle = mean_bundle(make, tiny_bert, encoder_tasks)
    with pytest.raises(ExportError, match=r"^mood: .*a logit differs by .*may pool in another way.*--task"):
        export_plain(bundle, tmp_path / "new" / "out", tasks=["names", "mood"])
    assert list(tmp_path.iterdir()) == []
    (result,) = export_plain(bundle, tmp_path / "new" / "out", tasks=["names"])
    assert result.folder.is_dir()


def test_a_refusal_leaves_what_was_there(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], tmp_path: Path
):
    bundle = mean_bundle(make, tiny_bert, encoder_tasks)
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "mine").write_text("kept")
    with pytest.raises(ExportError, match="mood"):
        export_plain(bundle, tmp_path, tasks=["names", "mood"])
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["names", "names/mine"]
    export_plain(bundle, tmp_path, tasks=["names"])
    assert not (tmp_path / "names" / "mine").exists()


def test_a_tolerance_that_nothing_meets_refuses(merged_bert: Made, tmp_path: Path):
    with pytest.raises(ExportError, match="limit 0e"):
        export_plain(merged_bert.open(), tmp_path / "out", tasks=["names"], tolerance=0.0)
    assert TOLERANCE == 1e-4


def test_an_unknown_task_is_answered_with_the_nearest(merged_bert: Made, tmp_path: Path):
    with pytest.raises(ExportError, match="Did you mean 'mood'"):
        export_plain(merged_bert.open(), tmp_path / "out", tasks=["mod"])
    assert list(tmp_path.iterdir()) == []


def test_two_folders_of_one_name_are_refused(
    make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], tmp_path: Path
):
    tasks = {"mood": encoder_tasks["mood"], "mood-adapter": encoder_tasks["names"]}
    bundle = make(tiny_bert, tasks, {"strategy": "lora"}).open()
    with pytest.raises(ExportError, match="mood-adapter: must have a folder of its own"):
        export_plain(bundle, tmp_path, tasks=["mood", "mood-adapter"])
    results = export_plain(bundle, tmp_path, tasks=["mood-adapter"])
    assert [result.folder.name for result in results] == ["mood-adapter", "mood-adapter-adapter"]


def test_a_file_in_the_way_is_an_error_of_the_system(merged_bert: Made, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        export_plain(merged_bert.open(), tmp_path / "file" / "out", tasks=["mood"])


def test_the_probe_has_special_tokens_pairs_and_padding(merged_bert: Made):
    bundle = merged_bert.open()
    batch = probe_batch(bundle)
    assert torch.equal(batch.tokens, probe_batch(bundle).tokens)
    assert batch.segments is not None
    assert set(batch.segments.unique().tolist()) == {0, 1}
    assert batch.layout.num_rows == 48
    assert (batch.tokens == bundle.tokenizer.pad).any()
    assert (batch.tokens[16:, 0] == batch.tokens[16, 0]).all(), "rows read as text begin with [CLS]"


def test_rounded_weights_are_never_exported(merged_bert: Made, tmp_path: Path):
    rounded = open_bundle(merged_bert.folder, device=torch.device("cpu"), precision=Precision.BF16)
    with pytest.raises(ExportError, match="opened in fp32"):
        export_plain(rounded, tmp_path / "out", tasks=tuple(rounded.tasks))
