"""A tokenizer that remembers answers as the one behind it does, and asks it only once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from weft.build.tokens import RememberingTokenizer, remembering
from weft.data.tokens import TokenStore
from weft.errors import RecipeError
from weft.model.folder import locate
from weft.model.tokenizer import load_tokenizer

TEXTS = ["a good film", "", "the book is great and happy " * 10, "这电影很好", "film \ud83d"]
SENTENCES = [["a", "good", "film"], ["sad"], ["the"] * 40]


@pytest.fixture
def plain(tiny_bert: Path):
    return load_tokenizer(locate(str(tiny_bert), None, root=Path()), max_tokens=16)


@pytest.fixture
def story(stories260k: Path):
    return load_tokenizer(locate(str(stories260k), None, root=Path()), max_tokens=24)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "tokens", 1 << 20)


class Broken:
    """Stands for a backend that must not be asked."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was asked for")


ASKS = {
    "texts": lambda tokenizer: tokenizer.texts(TEXTS[:4]),
    "pairs": lambda tokenizer: tokenizer.texts(TEXTS[:3], TEXTS[1:4]),
    "words": lambda tokenizer: tokenizer.words(SENTENCES),
    "plain": lambda tokenizer: tokenizer.plain(TEXTS[:4]),
}


@pytest.mark.parametrize("name", ASKS)
@pytest.mark.parametrize("which", ["plain", "story"])
def test_what_is_remembered_is_what_was_answered(request, store, monkeypatch, which, name):
    behind = request.getfixturevalue(which)
    expected = ASKS[name](behind)
    tokenizer = RememberingTokenizer(behind, store, worth_characters=0)
    assert ASKS[name](tokenizer) == expected
    (file,) = store.folder.iterdir()
    monkeypatch.setattr(type(behind), "digest", behind.digest)
    monkeypatch.setattr(behind, "_backend", Broken())
    assert ASKS[name](tokenizer) == expected
    file.unlink()
    with pytest.raises(AssertionError, match="was asked for"):
        ASKS[name](tokenizer)


def test_small_lists_are_not_worth_a_file(plain, store):
    RememberingTokenizer(plain, store).texts(TEXTS[:4])
    RememberingTokenizer(plain, store, worth_characters=12).texts(["eleven char"])
    assert not store.folder.exists()
    RememberingTokenizer(plain, store, worth_characters=11).texts(["eleven char"])
    assert len(list(store.folder.iterdir())) == 1


def test_whatever_changes_the_answer_has_a_file_of_its_own(plain, story, tiny_bert, store):
    shorter = load_tokenizer(locate(str(tiny_bert), None, root=Path()), max_tokens=8)
    asks = [
        lambda one: one.texts(["ab", "c"]),
        lambda one: one.texts(["a", "bc"]),
        lambda one: one.texts(["ab"], ["c"]),
        lambda one: one.texts(["abc"]),
        lambda one: one.plain(["ab", "c"]),
        lambda one: one.words([["ab", "c"]]),
        lambda one: one.words([["ab"], ["c"]]),
    ]
    for behind in (plain, shorter, story):
        for ask in asks:
            assert ask(RememberingTokenizer(behind, store, worth_characters=0)) == ask(behind)
    assert len(list(store.folder.iterdir())) == 3 * len(asks)


def test_a_broken_file_is_tokenized_again(plain, store):
    tokenizer = RememberingTokenizer(plain, store, worth_characters=0)
    expected = tokenizer.texts(TEXTS[:4])
    (file,) = store.folder.iterdir()
    file.write_bytes(b"not what it was")
    assert tokenizer.texts(TEXTS[:4]) == expected
    assert file.stat().st_size > 100


def test_everything_else_is_asked_of_the_tokenizer(story, store):
    tokenizer = RememberingTokenizer(story, store)
    assert (tokenizer.max_tokens, tokenizer.pad, tokenizer.stop) == (story.max_tokens, story.pad, story.stop)
    assert tokenizer.start == story.start
    (ids,) = story.plain(["once upon a time"])
    assert tokenizer.decode(ids) == story.decode(ids)
    assert (tokenizer.template, tokenizer.specials) == (story.template, story.specials)
    messages, template = [{"role": "user", "content": "hi"}], "{{ messages[0].content + end }}"
    assert tokenizer.render(messages, template) == story.render(messages, template)
    assert tokenizer.render(messages, template).text == "hi</s>"


def test_texts_that_go_on_are_remembered_apart_from_others(story, store):
    tokenizer = RememberingTokenizer(story, store, worth_characters=1)
    texts = ["once upon", "a time"]
    for _ in range(2):
        assert tokenizer.plain(texts) == story.plain(texts)
        assert tokenizer.continued(texts) == story.continued(texts) != story.plain(texts)
        assert tokenizer.continued(texts, behind="</s>") == story.continued(texts, behind="</s>")
    assert len(list(store.folder.iterdir())) == 3


def test_the_digest_is_of_the_tokenizer_and_lasts_longer_than_the_process(plain, story, tiny_bert):
    code = (
        "from pathlib import Path\nfrom weft.model.folder import locate\n"
        "from weft.model.tokenizer import load_tokenizer\n"
        f"print(load_tokenizer(locate({str(tiny_bert)!r}, None, root=Path()), max_tokens=9).digest)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == plain.digest != story.digest


def test_the_store_lies_where_the_environment_says(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    long = ["a good film " * 3000] * 10
    assert remembering(plain).texts(long) == plain.texts(long)
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    monkeypatch.setenv("WEFT_CACHE_LIMIT", "0")
    assert remembering(plain) is plain
    monkeypatch.setenv("WEFT_CACHE_LIMIT", "much")
    with pytest.raises(RecipeError, match="WEFT_CACHE_LIMIT"):
        remembering(plain)


def test_another_kind_of_tokenizer_is_left_alone(store):
    other = Broken()
    assert remembering(other) is other
