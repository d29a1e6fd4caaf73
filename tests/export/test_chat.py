"""Exported folders of tasks that generate: each asks by the template it learnt with, stops where it does, in its languages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoTokenizer, GenerationConfig

from weft.core.example import Purpose
from weft.core.network import Inference
from weft.errors import ExportError
from weft.export import chat
from weft.export.bundle import Bundle
from weft.export.chat import Chat
from weft.export.plain import export_plain
from weft.task.batching import make_batch

Make = Callable[..., Any]
ASKED = [
    [{"role": "user", "content": "who is mary?"}],
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "你好，玛丽是谁？"}],
]
TEMPLATES = {
    "chatml": Chat.EXACT,
    "llama2": Chat.EXACT,
    "Frage: {instruction}\n\nAntwort:": Chat.FIRST,
    "say {instruction} ": Chat.FIRST,
}


def told(template: str | None = None, **options: Any) -> dict[str, object]:
    own = {"template": template} if template else {}
    return {"kind": "generation", "train": "reply.jsonl", "max_new_tokens": 8, **options, **own}


@pytest.fixture(scope="module")
def talking(make: Make, stories260k: Path) -> Bundle:
    """Return a bundle whose tasks have a template each; LoRA, so that there are adapter folders too."""
    tasks = {f"t{at}": told(template) for at, template in enumerate(TEMPLATES)}
    tasks["plain"] = told(decoding={"stop": ["<s>"]})
    tasks["mood"] = {"kind": "classification", "train": "mood.csv"}
    return make(stories260k, tasks, {"strategy": "lora"}).open()


def test_each_folder_asks_by_the_template_of_its_own_task(talking: Bundle, tmp_path: Path):
    results = {one.folder.name: one for one in export_plain(talking, tmp_path, tasks=list(talking.tasks))}
    for name in (*(f"t{at}" for at in range(len(TEMPLATES))), "plain"):
        task: Any = talking.tasks[name]
        for folder in (results[name].folder, results[f"{name}-adapter"].folder):
            stock = AutoTokenizer.from_pretrained(folder)
            for messages in ASKED:
                found = stock.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
                asked = task.turn(messages, talking.tokenizer)
                assert asked.num_cut or list(asked.tokens) == found, (name, messages)
        asked = task.turn(ASKED[0], talking.tokenizer)
        assert asked.num_cut == 0
    found = {name: results[name].chat for name in results if not name.endswith("-adapter")}
    assert found == {
        "mood": None,
        "plain": Chat.FIRST,  # an end token that a prompt's answer has no text for
        **{f"t{at}": how for at, how in enumerate(TEMPLATES.values())},
    }
    own = AutoTokenizer.from_pretrained(talking.base.folder.path).chat_template
    assert AutoTokenizer.from_pretrained(tmp_path / "mood").chat_template == own
    assert len({AutoTokenizer.from_pretrained(tmp_path / f"t{at}").chat_template for at in range(4)}) == 4


def test_generation_stops_where_the_task_stops(talking: Bundle, tmp_path: Path):
    results = export_plain(talking, tmp_path, tasks=["t0", "plain"])
    stops = {"t0": 2, "plain": [2, 1]}
    for one in results:
        config = GenerationConfig.from_pretrained(one.folder)
        assert config.eos_token_id == stops[one.folder.name.removesuffix("-adapter")]
        assert config.pad_token_id == talking.tokenizer.pad
        assert config.forced_bos_token_id is None
    assert not (tmp_path / "plain-adapter" / "config.json").exists()


def test_a_template_that_asks_otherwise_is_refused(talking: Bundle, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(chat, "_FIRST", ([{"role": "user", "content": "<s>?"}], *chat._FIRST))
    real = type(talking.tokenizer).save

    def spoil(self, folder, text=None):
        real(self, folder, text)
        template = folder / "chat_template.jinja"
        template.write_text(template.read_text(encoding="utf-8") + "!", encoding="utf-8")

    monkeypatch.setattr(type(talking.tokenizer), "save", spoil)
    with pytest.raises(ExportError, match="the chat template must give the tokens that the bundle asks with"):
        export_plain(talking, tmp_path / "out", tasks=["t0"])
    assert not (tmp_path / "out").exists()


def test_a_tokenizers_own_template_is_exported_as_it_is(make: Make, stories260k: Path, tmp_path: Path):
    folder = tmp_path / "model"
    stock = AutoTokenizer.from_pretrained(stories260k)
    stock.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    stock.save_pretrained(folder)
    for file in stories260k.iterdir():
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    bundle = make(folder, {"own": told(), "text": told("chatml")}, {"strategy": "full"}).open()
    results = export_plain(bundle, tmp_path / "out", tasks=["own", "text"])
    assert [one.chat for one in results] == [None, Chat.EXACT]
    own, other = (AutoTokenizer.from_pretrained(one.folder).chat_template for one in results)
    assert own == stock.chat_template
    assert "<|im_start|>" in other


@pytest.mark.parametrize("strategy", ["full", [{"train": "lora", "rank": 2, "sites": "attention"}]])
def test_translators_are_exported_with_their_languages(
    make: Make, tiny_translator: Path, strategy: Any, tmp_path: Path
):
    tasks = {
        "there": told(source_language="en_XX", target_language="zh_CN"),
        "back": told(source_language="zh_CN", target_language="en_XX"),
    }
    bundle = make(tiny_translator, tasks, {"strategy": strategy, "lr": 1e-3}).open()
    for one in export_plain(bundle, tmp_path, tasks=list(tasks)):
        task: Any = bundle.tasks[one.folder.name.removesuffix("-adapter")]
        tokenizer = AutoTokenizer.from_pretrained(one.folder)
        codes = (task.languages.source, task.languages.target)
        assert (tokenizer.src_lang, tokenizer.tgt_lang) == codes
        texts = ["a good man", "我在上海"]
        asked: list[Any] = task.encode([task.ask(text) for text in texts], bundle.tokenizer, Purpose.ANSWER)
        given = tokenizer(texts, padding=True, return_tensors="pt")
        assert [
            row[: len(own.tokens)] for row, own in zip(given["input_ids"].tolist(), asked, strict=True)
        ] == [list(own.tokens) for own in asked]
        assert one.chat is None
        config = GenerationConfig.from_pretrained(one.folder)
        assert config.forced_bos_token_id == bundle.tokenizer.languages[codes[1]]
        if one.folder.name.endswith("-adapter"):
            continue
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(one.folder).eval()
        grown = model.generate(**given, max_new_tokens=8, num_beams=1, do_sample=False)
        assert {row[1] for row in grown.tolist()} == {config.forced_bos_token_id}
        batch = make_batch([(task.name, own) for own in asked], bundle.tasks, pad=bundle.tokenizer.pad)
        with torch.inference_mode():
            found = [answer.text for answer in task.answers(Inference(bundle.network, batch), asked)]
        assert found == [text.strip() for text in tokenizer.batch_decode(grown, skip_special_tokens=True)]
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text())["forced_bos_token_id"]


@pytest.mark.parametrize(
    "decoding", [{}, {"beams": 3, "length_penalty": 0.5, "no_repeat_ngram": 2}, {"repetition_penalty": 1.7}]
)
def test_a_folder_decodes_as_its_task_and_not_as_the_base_did(
    make: Make, stories260k: Path, sentences: list[str], decoding: dict[str, Any], tmp_path: Path
):
    """Some bases have a least length and beams of their own; some say what transformers does not save again."""
    folder = tmp_path / "model"
    shutil.copytree(stories260k, folder)
    base = {"min_length": 200, "num_beams": 2, "no_repeat_ngram_size": 1, "temperature": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(base))
    tasks = {"reply": told(decoding=decoding, max_new_tokens=12)}
    bundle = make(folder, tasks, {"strategy": [{"train": "lora", "rank": 2, "sites": "attention"}]}).open()
    merged, adapter = export_plain(bundle, tmp_path / "out", tasks=["reply"])
    task: Any = bundle.tasks["reply"]
    rows = [task.ask(text) for text in sentences[:4]]
    asked: list[Any] = task.encode(rows, bundle.tokenizer, Purpose.ANSWER)
    batch = make_batch([("reply", one) for one in asked], bundle.tasks, pad=bundle.tokenizer.pad)
    with torch.inference_mode():
        expected = [answer.text for answer in task.answers(Inference(bundle.network, batch), asked)]
    tokenizer = AutoTokenizer.from_pretrained(merged.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(merged.folder).eval()
    for one, text in zip(asked, expected, strict=True):
        prompt = torch.tensor([one.tokens])
        grown = model.generate(prompt, attention_mask=torch.ones_like(prompt))[0, prompt.shape[1] :]
        assert tokenizer.decode(grown, skip_special_tokens=True).strip() == text
        assert text
    written = (one.folder / "generation_config.json" for one in (merged, adapter))
    assert len({path.read_text(encoding="utf-8") for path in written}) == 1


def test_answers_that_are_drawn_are_drawn_alike(talking: Bundle):
    task: Any = talking.tasks["t0"]
    drawn = task.told({"decoding": {"temperature": 0.7, "top_p": 0.9}, "max_new_tokens": 5})
    model = SimpleNamespace(generation_config=GenerationConfig(bos_token_id=1, top_k=7))
    chat.tell(model, replace(talking, tasks={**talking.tasks, "t0": drawn}), "t0")
    found: Any = model.generation_config
    assert (found.do_sample, found.temperature, found.top_p, found.top_k) == (True, 0.7, 0.9, 0)
    assert (found.max_new_tokens, found.bos_token_id, found.eos_token_id) == (5, 1, 2)
