"""Token ids equal those of transformers' own calls; cutting, words and special tokens are exact."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers import decoders as token_decoders
from tokenizers import normalizers as token_normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from weft.errors import ModelError
from weft.model.folder import inspect, locate
from weft.model.tokenizer import HFTokenizer, load_tokenizer, longest_first

TEXTS = [
    "a good film",
    "",
    "London and Paris are big cities, not small!",
    "我你他 the 电影",
    "x" * 300,
    "   ",
    "a\x00b\u200b",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="session")
def bert(tiny_bert):
    return inspect(tiny_bert, name="tiny_bert")


def byte_level(*, add_prefix_space: bool, roberta: bool) -> PreTrainedTokenizerFast:
    """Return a small byte-level BPE: GPT-2's, or RoBERTa's with its special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    merges = [("Ġ", letter) for letter in LETTERS] + [("t", "h"), ("th", "e")]
    vocabulary |= {"".join(pair): len(vocabulary) + index for index, pair in enumerate(merges)}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = token_decoders.ByteLevel()
    if roberta:
        backend.post_processor = processors.RobertaProcessing(
            ("</s>", 1), ("<s>", 0), add_prefix_space=add_prefix_space
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>" if roberta else "<s>", pad_token="<pad>"
    )


def wrap(tokenizer, *, max_tokens=64, has_segments=False):
    return HFTokenizer(tokenizer, max_tokens=max_tokens, has_segments=has_segments)


# ------------------------------------------------------------------------------------------ texts and pairs
@pytest.mark.parametrize("max_tokens", [8, 11, 64])
def test_texts_equal_transformers(bert, max_tokens):
    tokenizer = load_tokenizer(bert, max_tokens=max_tokens)
    stock = AutoTokenizer.from_pretrained(bert.path)
    whole = stock(TEXTS)["input_ids"]
    cut = stock(TEXTS, truncation=True, max_length=max_tokens)
    for pieces, tokens, segments, full in zip(
        tokenizer.texts(TEXTS), cut["input_ids"], cut["token_type_ids"], whole, strict=True
    ):
        assert pieces.tokens == tuple(tokens)
        assert pieces.segments == tuple(segments)
        assert pieces.num_cut == len(full) - len(tokens)
        assert pieces.first is None


SENTENCE = st.lists(st.sampled_from("a good bad film london paris 电影 ! xyzzy".split()), max_size=14).map(
    " ".join
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=SENTENCE, second=SENTENCE, max_tokens=st.integers(8, 20))
def test_pairs_are_cut_as_transformers_cuts_them(bert, first, second, max_tokens):
    tokenizer = load_tokenizer(bert, max_tokens=max_tokens)
    stock = AutoTokenizer.from_pretrained(bert.path)
    expected = stock([first], [second], truncation="longest_first", max_length=max_tokens)
    (pieces,) = tokenizer.texts([first], [second])
    assert pieces.tokens == tuple(expected["input_ids"][0])
    assert pieces.segments == tuple(expected["token_type_ids"][0])
    assert pieces.num_cut == len(stock([first], [second])["input_ids"][0]) - len(pieces.tokens)


@given(first=st.integers(0, 60), second=st.integers(0, 60), room=st.integers(1, 50))
def test_longest_first_fills_the_room_and_spares_the_shorter(first, second, room):
    kept = longest_first(first, second, room)
    assert sum(kept) == min(first + second, room)
    assert kept[0] <= first
    assert kept[1] <= second
    if first + second > room:
        assert min(kept) == min(first, second, room // 2)


@pytest.mark.parametrize("roberta", [True, False])
def test_byte_level_texts_and_pairs_equal_transformers(roberta):
    stock = byte_level(add_prefix_space=False, roberta=roberta)
    tokenizer = wrap(byte_level(add_prefix_space=False, roberta=roberta), max_tokens=12)
    texts = ["the cat", "a dog of the house"]
    assert [list(p.tokens) for p in tokenizer.texts(texts)] == stock(texts, truncation=True, max_length=12)[
        "input_ids"
    ]
    expected = stock(texts, texts[::-1], truncation="longest_first", max_length=12)["input_ids"]
    assert [list(p.tokens) for p in tokenizer.texts(texts, texts[::-1])] == expected
    assert {p.segments for p in tokenizer.texts(texts)} == {None}


def test_segments_only_where_the_trunk_has_them(bert, tmp_path):
    shutil.copytree(bert.path, tmp_path / "one")
    config = tmp_path / "one" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"type_vocab_size": 1}))
    one = load_tokenizer(inspect(tmp_path / "one", name="one"), max_tokens=16)
    assert one.texts(["a film"], ["a book"])[0].segments is None


def test_truncation_and_padding_saved_with_a_tokenizer_do_not_act(bert, tmp_path):
    """Sentence encoders ship a tokenizer.json that cuts at 128 and pads every batch."""
    shutil.copytree(bert.path, tmp_path / "cutting")
    backend = Tokenizer.from_file(str(tmp_path / "cutting" / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=32)
    backend.save(str(tmp_path / "cutting" / "tokenizer.json"))
    cutting = load_tokenizer(inspect(tmp_path / "cutting", name="cutting"), max_tokens=64)
    assert cutting.texts(TEXTS) == load_tokenizer(bert, max_tokens=64).texts(TEXTS)


def test_no_row_is_ever_empty():
    tokenizer = wrap(byte_level(add_prefix_space=False, roberta=False))
    assert tokenizer.texts([""])[0].tokens == (tokenizer.stop,)
    assert tokenizer.texts([""], [""])[0].tokens == (tokenizer.stop,)
    assert tokenizer.words([[]])[0].tokens == (tokenizer.stop,)


def test_huge_texts_take_linear_time_and_bounded_memory(bert):
    tokenizer = load_tokenizer(bert, max_tokens=64)
    tokenizer.texts(["warm"])

    def seconds(text):
        started = time.perf_counter()
        (pieces,) = tokenizer.texts([text])
        assert len(pieces.tokens) == 64
        return time.perf_counter() - started

    short, long = seconds("good film " * 10_000), seconds("good film " * 100_000)
    assert long < 60 * max(short, 0.01), "ten times the text: far from a hundred times the time"
    beyond = tokenizer.texts(["good film " * 200_000])[0]
    assert beyond == tokenizer.texts(["good film " * 100_000])[0]
    assert beyond.num_cut == 200_000 - 62


# ------------------------------------------------------------------------------------------ words
def test_words_give_first_pieces(bert):
    tokenizer = load_tokenizer(bert, max_tokens=64)
    sentence = ["London", "filming", "", "\u200b", "a", " ", "..."]
    (pieces,) = tokenizer.words([sentence])
    tokens = tokenizer._tokenizer.convert_ids_to_tokens(list(pieces.tokens))
    assert tokens == ["[CLS]", "london", "film", "##ing", "a", ".", ".", ".", "[SEP]"]
    assert pieces.first == (1, 2, -1, -1, 4, -1, 5)
    assert pieces.num_cut == 0


WORD = st.sampled_from(["London", "filming", "", "a", "电影", "the", "xyz", "\u200b", "..."])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sentence=st.lists(WORD, max_size=12), max_tokens=st.integers(8, 30))
def test_words_equal_transformers(bert, sentence, max_tokens):
    stock = AutoTokenizer.from_pretrained(bert.path)
    expected = stock(sentence, is_split_into_words=True, truncation=True, max_length=max_tokens)
    (pieces,) = load_tokenizer(bert, max_tokens=max_tokens).words([sentence])
    assert pieces.tokens == tuple(expected["input_ids"])
    firsts: dict[int, int] = {}
    for position, word in enumerate(expected.word_ids()):
        if word is not None:
            firsts.setdefault(word, position)
    assert {word: at for word, at in enumerate(pieces.first) if at >= 0} == firsts
    if not pieces.num_cut:
        assert len(pieces.first) == len(sentence)


def test_words_that_are_cut_off_have_no_first_piece(bert):
    tokenizer = load_tokenizer(bert, max_tokens=8)
    sentence = ["a", "", "filming", "filming", "filming", "", "a"]
    (pieces,) = tokenizer.words([sentence])
    assert pieces.first == (1, -1, 2, 4, 6)
    assert (len(pieces.tokens), pieces.num_cut) == (8, 2)
    (half,) = load_tokenizer(bert, max_tokens=9).words([["a", "a", "a", "a", "a", "a", "filming", ""]])
    assert half.first == (1, 2, 3, 4, 5, 6, 7), "a word that is cut in two keeps its first piece"


@pytest.mark.parametrize("roberta", [True, False])
@pytest.mark.parametrize("add_prefix_space", [True, False])
def test_byte_level_words_carry_their_space(roberta, add_prefix_space):
    """Transformers demands ``add_prefix_space`` for this; whatever the setting, words read as in running text."""
    stock = byte_level(add_prefix_space=True, roberta=roberta)
    tokenizer = wrap(byte_level(add_prefix_space=add_prefix_space, roberta=roberta))
    sentence = ["the", "cat", "", "a"]
    expected = stock([word for word in sentence if word], is_split_into_words=True)["input_ids"]
    (pieces,) = tokenizer.words([sentence])
    assert list(pieces.tokens) == expected
    tokens = tokenizer._tokenizer.convert_ids_to_tokens(
        [pieces.tokens[at] for at in pieces.first or () if at >= 0]
    )
    assert tokens == ["Ġt", "Ġc", "Ġa"]
    assert pieces.first[2] == -1


def test_llama_words_carry_their_mark(stories260k):
    tokenizer = load_tokenizer(inspect(stories260k, name="s"), max_tokens=64)
    (pieces,) = tokenizer.words([["Once", "upon", "", "a", "time"]])
    assert pieces.tokens == tokenizer.texts(["Once upon a time"])[0].tokens
    marks = tokenizer._tokenizer.convert_ids_to_tokens(
        [pieces.tokens[at] for at in pieces.first or () if at >= 0]
    )
    assert all(mark.startswith("▁") for mark in marks)
    assert pieces.first[2] == -1


# ------------------------------------------------------------------------------------------ causal
def test_stories_round_trip_and_marks(stories260k):
    tokenizer = load_tokenizer(inspect(stories260k, name="s"), max_tokens=10_000)
    assert (tokenizer.pad, tokenizer.stop, tokenizer.start, tokenizer.max_tokens) == (0, 2, (1,), 512)
    (plain,) = tokenizer.plain(["Once upon a time, Tim saw 电影."])
    assert 1 not in plain
    assert tokenizer.decode((*tokenizer.start, *plain, tokenizer.stop)) == "Once upon a time, Tim saw 电影."
    assert tokenizer.texts(["Once"])[0].tokens == tokenizer.start + tokenizer.plain(["Once"])[0]
    assert tokenizer.template is None
    assert tokenizer.specials == {"<unk>": 0, "<s>": 1, "</s>": 2}


def test_marks_fall_back():
    gpt2 = wrap(byte_level(add_prefix_space=False, roberta=False))
    assert gpt2.start == (), "a BOS that is also the end opens nothing"
    assert gpt2.stop == 0
    bare = byte_level(add_prefix_space=False, roberta=False)
    bare.pad_token = bare.bos_token = None
    assert (wrap(bare).pad, wrap(bare).stop) == (0, 0)
    bare.eos_token = None
    assert (wrap(bare).pad, wrap(bare).stop) == (0, 0)
    silent = byte_level(add_prefix_space=False, roberta=False)
    silent.eos_token = "</s>"
    assert wrap(silent).start == (0,), (
        "a BOS of its own opens a text though the tokenizer does not put it there"
    )


def test_an_encoder_stops_at_its_separator(bert):
    tokenizer = load_tokenizer(bert, max_tokens=16)
    tokens = tokenizer._tokenizer.convert_ids_to_tokens([tokenizer.pad, tokenizer.stop])
    assert tokens == ["[PAD]", "[SEP]"]


TALK = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


def test_conversations_go_through_a_template():
    stock = byte_level(add_prefix_space=False, roberta=False)
    stock.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer = wrap(stock)
    assert tokenizer.template == stock.chat_template
    opened = tokenizer.render(TALK, tokenizer.template, is_open=True)
    assert (opened.text, opened.marks) == ("<system>Be kind.\n<user>Hi\n<assistant>", ())
    assert tokenizer.render(TALK[1:], tokenizer.template).text == "<user>Hi\n"
    assert opened.text == stock.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)


def test_of_several_templates_the_default_is_taken():
    stock = byte_level(add_prefix_space=False, roberta=False)
    stock.chat_template = {"default": "a", "tool_use": "b"}
    assert wrap(stock).template == "a"


def test_templates_see_tools_special_tokens_and_the_end_mark():
    stock = byte_level(add_prefix_space=False, roberta=False)
    stock.add_tokens(["<|end|>"], special_tokens=True)
    tokenizer = wrap(stock)
    shown = "{{ eos_token }} {{ end }} {% for t in tools or [] %}{{ t.name }}{% endfor %}"
    tools = [{"name": "now"}]
    eos = stock.eos_token
    assert tokenizer.render(TALK, shown, tools=tools, end="<|end|>").text == f"{eos} <|end|> now"
    assert tokenizer.render(TALK, shown, end="<|none|>").text == f"{eos} {eos} "


def test_marks_are_where_the_assistant_speaks():
    tokenizer = wrap(byte_level(add_prefix_space=False, roberta=False))
    template = "{% for m in messages %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endfor %}"
    rendered = tokenizer.render(TALK, template)
    assert [rendered.text[start:end] for start, end in rendered.marks] == ["Be kind.", "Hi"]


def test_continued_text_is_tokenized_as_in_the_whole(stories260k):
    """SentencePiece opens a text with a blank; byte-level vocabularies do not."""
    story = load_tokenizer(inspect(stories260k, name="s"), max_tokens=512)
    for tokenizer in (story, wrap(byte_level(add_prefix_space=False, roberta=False))):
        for before, after in (("Say:\n", "red 电影"), ("Say:\n", " red"), ("a</s>", "red"), ("Say:\n", "")):
            behind = "</s>" if before.endswith("</s>") else "\n"
            whole = tokenizer.plain([before + after])[0]
            assert (*tokenizer.plain([before])[0], *tokenizer.continued([after], behind=behind)[0]) == whole
        assert tokenizer.continued([]) == []
    assert story.plain(["red"]) != story.continued(["red"])


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 3000000 }}",
        "{{ raise_exception('no system') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 1 / 'a' }}",
        "{% for",
    ],
)
def test_a_template_that_fails_or_explodes_is_an_error(template):
    tokenizer = wrap(byte_level(add_prefix_space=False, roberta=False))
    with pytest.raises(ModelError, match="chat template: must"):
        tokenizer.render(TALK[1:], template)


# ------------------------------------------------------------------------------------------ loading and saving
def test_saved_files_load_in_stock_transformers(bert, tmp_path):
    tokenizer = load_tokenizer(bert, max_tokens=64)
    tokenizer.save(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in TEXTS if len(text) < 60]
    assert [list(p.tokens) for p in tokenizer.texts(texts)] == stock(texts)["input_ids"]


def test_room_for_special_tokens_is_demanded(bert):
    with pytest.raises(ModelError, match="must leave room beside 3 special tokens, but is 3"):
        load_tokenizer(bert, max_tokens=3)
    assert load_tokenizer(bert, max_tokens=4).texts(["a good film"], ["x"])[0].num_cut == 3


def test_the_tokenizers_own_limit_holds(bert):
    assert load_tokenizer(bert, max_tokens=1000).max_tokens == 128


def test_the_models_positions_hold_too(bert, tmp_path):
    shutil.copytree(bert.path, tmp_path / "short")
    config = tmp_path / "short" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 50}))
    assert load_tokenizer(replace(bert, path=tmp_path / "short"), max_tokens=64).max_tokens == 50


def test_a_folder_without_tokenizer_is_refused(saved):
    with pytest.raises(ModelError, match=r"must hold one of tokenizer\.json"):
        load_tokenizer(saved("bert"), max_tokens=16)


def test_a_tokenizer_of_another_model_is_refused(bert, tmp_path):
    small = tmp_path / "small"
    shutil.copytree(bert.path, small)
    config = json.loads((small / "config.json").read_text()) | {"vocab_size": 3}
    (small / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="special tokens must be among the model's 3 embeddings"):
        load_tokenizer(replace(bert, path=small), max_tokens=16)


def test_a_tokenizer_that_reads_nothing_is_refused():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.normalizer = token_normalizers.Replace("a", "")
    with pytest.raises(ModelError, match="must give 'a' a token"):
        wrap(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))


@pytest.mark.slow
def test_minilm_equals_transformers():
    folder = locate("minilm", None, root=Path())
    tokenizer, stock = load_tokenizer(folder, max_tokens=256), AutoTokenizer.from_pretrained(folder.path)
    texts = ["Angela Merkel visited São Paulo.", "It’s a wonderful — if long — film 🎬", "北京很大"]
    assert [list(p.tokens) for p in tokenizer.texts(texts)] == stock(texts)["input_ids"]
    pairs = stock(texts, texts[::-1])
    assert [list(p.tokens) for p in tokenizer.texts(texts, texts[::-1])] == pairs["input_ids"]
    assert [list(p.segments) for p in tokenizer.texts(texts, texts[::-1])] == pairs["token_type_ids"]
