"""Translators between many languages: tokens, losses and answers are those of transformers; codes are found or refused."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import processors
from transformers.models.mbart.modeling_mbart import shift_tokens_right

from weft.core.example import Dropped, Purpose
from weft.core.network import Inference, Network
from weft.errors import ModelError
from weft.model.folder import locate
from weft.model.tokenizer import load_tokenizer
from weft.model.trunk import load_trunk
from weft.objective.supervised import Supervised
from weft.task.batching import make_batch
from weft.task.generation import Generation

ROWS = [
    {"source": "a good book", "target": "好书"},
    {"source": "you and i", "target": "你我的"},
    {"source": "no", "target": "不是"},
]
SIGNS = ("▁", *string.ascii_lowercase, *"我你好书的不是")
SMALL: dict[str, Any] = {
    "d_model": 32,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}


def saved(tokenizer: Any, folder: Path) -> Path:
    config = transformers.M2M100Config(vocab_size=len(tokenizer), **SMALL)
    torch.manual_seed(0)
    transformers.M2M100ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def nllb(**options: Any) -> Any:
    vocabulary = {sign: at for at, sign in enumerate(("<s>", "<pad>", "</s>", "<unk>", *SIGNS))}
    return transformers.NllbTokenizer(vocab=vocabulary, merges=[], **options)


@pytest.fixture(scope="module")
def tiny_nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(nllb(), tmp_path_factory.mktemp("nllb"))


@pytest.fixture(scope="module")
def tiny_m2m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an M2M100 whose tokenizer somebody made fast: it knows its languages by their tokens alone."""
    backend = nllb(extra_special_tokens=["__en__", "__zh__", "__de__"], src_lang="__en__").backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="__en__ $A </s>",
        pair="__en__ $A $B </s>",
        special_tokens=[("__en__", backend.token_to_id("__en__")), ("</s>", 2)],
    )
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    marks = {f"{name}_token": mark for name, mark in names.items()}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **marks)
    return saved(tokenizer, tmp_path_factory.mktemp("m2m"))


CODES = {
    "tiny_translator": ("en_XX", "zh_CN"),
    "tiny_nllb": ("eng_Latn", "zho_Hans"),
    "tiny_m2m": ("en", "zh"),
}


@pytest.fixture(params=CODES)
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def codes(request, folder) -> tuple[str, str]:  # the parameter is the folder's
    return CODES[request.node.callspec.params["folder"]]


def open_tokenizer(folder: Path):
    return load_tokenizer(locate(str(folder), None, root=Path()), max_tokens=64)


def open_network(folder: Path, task: Any) -> tuple[Any, Network]:
    where = locate(str(folder), None, root=Path())
    trunk = load_trunk(where, wants_lm_head=True, dropout=0.0, device=torch.device("cpu"))
    return trunk, Network(trunk, {task.name: task.head(trunk.info, dropout=0.0, seed=0)}).eval()


def between(kit, codes: tuple[str, str], rows=ROWS, **options: Any):
    return kit.fit(
        "generation", rows, name="t", source_language=codes[0], target_language=codes[1], **options
    )


def stock_ids(folder: Path, codes: tuple[str, str], rows=ROWS) -> tuple[Any, Any]:
    """Return what the stock tokenizer makes of sources and of targets."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sources, targets = [row["source"] for row in rows], [row["target"] for row in rows]
    if not hasattr(
        tokenizer, "src_lang"
    ):  # the class knows no languages, so each list is read by its own post-processor
        first, second = (
            [[tokenizer.convert_tokens_to_ids(f"__{code}__"), *tokenizer(text)["input_ids"][1:]] for text in texts]
            for code, texts in zip(codes, (sources, targets), strict=True)
        )  # fmt: skip
        return first, second
    tokenizer.src_lang, tokenizer.tgt_lang = codes
    return tokenizer(sources)["input_ids"], tokenizer(text_target=targets)["input_ids"]


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


@pytest.mark.parametrize("turned", [False, True])
def test_sources_and_replies_begin_with_their_languages(kit, folder, codes, turned):
    rows = [{"source": row["target"], "target": row["source"]} for row in ROWS] if turned else ROWS
    codes = codes[::-1] if turned else codes
    sources, targets = stock_ids(folder, codes, rows)
    tokenizer, task = open_tokenizer(folder), between(kit, codes, rows)
    learnt = task.encode(kit.rows(rows), tokenizer, Purpose.LEARN)
    assert [list(one.tokens) for one in learnt] == sources
    assert [list(one.reply.tokens) for one in learnt] == [[2, *row] for row in targets]
    assert [sources[0][0], targets[0][0]] == [tokenizer.languages[code] for code in codes]
    asked = task.encode(kit.rows(rows), tokenizer, Purpose.ANSWER)
    assert [list(one.tokens) for one in asked] == sources
    again = Generation.from_config("t", task.config())
    assert [one.tokens for one in again.encode(kit.rows(rows), tokenizer, Purpose.ANSWER)] == [
        one.tokens for one in asked
    ]


def test_loss_and_gradients_are_those_of_transformers(kit, folder, codes):
    task = between(kit, codes)
    trunk, network = open_network(folder, task)
    examples = task.encode(kit.rows(ROWS), open_tokenizer(folder), Purpose.LEARN)
    batch = make_batch([("t", one) for one in examples], {"t": task}, pad=1)
    loss = Supervised({"t": task.loss})(batch, network)["t"]
    sources, targets = stock_ids(folder, codes)
    stock = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()
    given, labels = padded(sources, 1), padded(targets, 1)
    expected = stock(
        input_ids=given,
        attention_mask=(given != 1).long(),
        decoder_input_ids=shift_tokens_right(labels, 1),
        labels=labels.masked_fill(labels == 1, -100),
    ).loss
    count = sum(map(len, targets))
    assert loss.weight == count
    torch.testing.assert_close(loss.total / count, expected, rtol=1e-5, atol=1e-6)
    (loss.total / count).backward()
    expected.backward()
    stocks = dict(stock.named_parameters())
    for name, parameter in trunk.model.named_parameters():
        if stocks[name].grad is not None:
            torch.testing.assert_close(parameter.grad, stocks[name].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_generate_with_the_language_forced(kit, folder, codes, beams):
    task = between(kit, codes, max_new_tokens=8, decoding={"beams": beams})
    trunk, network = open_network(folder, task)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # else every token is as likely, and the last one comes again and again
        for parameter in trunk.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3, generator=generator)
    tokenizer = open_tokenizer(folder)
    asked: list[Any] = task.encode(kit.rows(ROWS), tokenizer, Purpose.ANSWER)
    batch = make_batch([("t", one) for one in asked], {"t": task}, pad=1)
    with torch.inference_mode():
        found = [answer.text for answer in task.answers(Inference(network, batch), asked)]
    sources, _ = stock_ids(folder, codes)
    given = padded(sources, 1)
    config = transformers.GenerationConfig(
        max_new_tokens=8,
        num_beams=beams,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=1,
        decoder_start_token_id=2,
        forced_bos_token_id=tokenizer.languages[codes[1]],
    )
    grown = trunk.model.generate(given, attention_mask=(given != 1).long(), generation_config=config)
    assert {row[1] for row in grown.tolist()} == {tokenizer.languages[codes[1]]}
    assert found == [tokenizer.decode(row).strip() for row in grown.tolist()]
    assert any(found)
    heard: list[str] = []
    turned = task.turn([{"role": "user", "content": ROWS[0]["source"]}], tokenizer)
    assert turned.tokens == asked[0].tokens
    assert task.reply(network, turned, heard.append).text == found[0] == "".join(heard)


@pytest.mark.parametrize("turned", [False, True])
def test_a_saved_tokenizer_reads_in_the_language_of_its_task(kit, folder, codes, turned, tmp_path):
    codes = codes[::-1] if turned else codes
    rows = [{"source": row["target"], "target": row["source"]} for row in ROWS] if turned else ROWS
    task, tokenizer = between(kit, codes, rows), open_tokenizer(folder)
    before = tokenizer.texts(["a"])
    text = task.stock_text(tokenizer)
    assert (text.decoding.stop_tokens, text.chat_template, text.languages) == ((2,), None, codes)
    assert [text.source, text.decoding.first] == [tokenizer.languages[code] for code in codes]
    tokenizer.save(tmp_path, text)
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
    asked = task.encode(kit.rows(rows), tokenizer, Purpose.ANSWER)
    assert stock([row["source"] for row in rows])["input_ids"] == [list(one.tokens) for one in asked]
    assert stock("a", "b")["input_ids"][0] == text.source
    assert tokenizer.texts(["a"]) == before, "the tokenizer of the bundle stays as it was"


def test_languages_of_a_translation_are_found_in_its_rows(kit, tiny_translator, tiny_m2m):
    rows = [{"translation": {"en": row["source"], "zh": row["target"]}} for row in ROWS]
    for folder in (tiny_translator, tiny_m2m):
        tokenizer = open_tokenizer(folder)
        task = kit.fit("generation", rows, name="t")
        example = task.encode(kit.rows(rows), tokenizer, Purpose.LEARN)[0]
        codes = CODES["tiny_translator" if folder == tiny_translator else "tiny_m2m"]
        assert [example.tokens[0], example.reply.tokens[1]] == [tokenizer.languages[code] for code in codes]
        back = kit.fit(
            "generation",
            rows,
            name="t",
            columns={"instruction": "translation.zh", "output": "translation.en"},
        )
        turned = back.encode(kit.rows(rows), tokenizer, Purpose.LEARN)[0]
        assert (turned.tokens[0], turned.reply.tokens[1]) == (example.reply.tokens[1], example.tokens[0])
        spoken = task.turn([{"role": "user", "content": ROWS[0]["source"]}], tokenizer)
        assert not isinstance(spoken, Dropped)
        assert spoken.tokens == example.tokens


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"t\.source_language: must be one of the model's 202 languages, but is not given.*eng_Latn"),
        ({"source_language": "eng_Latn"}, r"t\.target_language: must be one of .* but is not given"),
        ({"source_language": "english"}, r"but is 'english'\. Nearest: eng_Latn"),
        ({"source_language": "eng_Latn", "target_language": "zh"}, r"but is 'zh'\. Nearest: zho_Hans, zho_Hant"),
    ],
)  # fmt: skip
def test_codes_that_are_missing_or_unknown_are_one_error_with_the_nearest(kit, tiny_nllb, options, words):
    task = kit.fit("generation", ROWS, name="t", **options)
    with pytest.raises(ModelError, match=words):
        task.encode(kit.rows(ROWS), open_tokenizer(tiny_nllb), Purpose.LEARN)


def test_codes_of_rows_that_are_not_the_models_are_named(kit, tiny_nllb):
    rows = [{"translation": {"en": row["source"], "zh": row["target"]}} for row in ROWS]
    task = kit.fit("generation", rows, name="t", source_language="eng_Latn")
    with pytest.raises(ModelError, match=r"target_language: .*\(the rows say 'zh'\)\. Nearest: zho_Hans"):
        task.encode(kit.rows(rows), open_tokenizer(tiny_nllb), Purpose.LEARN)


@pytest.mark.parametrize("model", ["tiny_t5", "stories260k", "tiny_bert"])
def test_models_without_languages_want_none(kit, request, model):
    tokenizer = open_tokenizer(request.getfixturevalue(model))
    assert tokenizer.languages == {}
    with pytest.raises(ModelError, match=r"t\.target_language: must be left out where no token says"):
        kit.fit("generation", ROWS, name="t", target_language="zh").encode(
            kit.rows(ROWS), tokenizer, Purpose.LEARN
        )


def test_languages_behind_texts_are_refused(kit, tmp_path):
    folder = saved(nllb(legacy_behaviour=True), tmp_path)
    task = between(kit, CODES["tiny_nllb"])
    with pytest.raises(ModelError, match="must put the language before a text, but puts it behind"):
        task.encode(kit.rows(ROWS), open_tokenizer(folder), Purpose.LEARN)
