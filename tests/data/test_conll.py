"""CoNLL columns, as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.conll import looks_like, read, split
from weft.data.encoding import TextFile, inspect
from weft.errors import DataError

PLAIN = "EU B-ORG\nrejects O\n\nPeter B-PER\nBlackburn I-PER\n"
SENTENCES = [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter", "Blackburn"], ["B-PER", "I-PER"])]


def opened(folder: Path, text: str) -> TextFile:
    path = folder / "x.conll"
    path.write_bytes(text.encode())
    return inspect(path, name="x.conll")


def sentences(folder: Path, text: str) -> list[tuple[list[str], list[str]]]:
    return [(values["tokens"], values["tags"]) for values, _ in read(opened(folder, text))]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip("\n"),
        PLAIN.replace(" ", "\t"),
        PLAIN.replace(" ", "   "),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "  \n"),
        PLAIN.replace("\n", " \t\r\n"),
        f"\n\n{PLAIN}\n\n\n",
        f"-DOCSTART- O\n\n{PLAIN}",
        PLAIN.replace("\n\n", "\n-DOCSTART- -X- O O\n"),
        f"# id = 1\n# text = EU rejects\n{PLAIN}#\n",
        PLAIN.replace("\n\n", "\n\n# text = Peter Blackburn\n#note\n"),
        "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\nBlackburn NNP I-NP I-PER\n",
    ],
)
def test_the_same_sentences_in_many_forms(tmp_path: Path, text: str):
    assert sentences(tmp_path, text) == SENTENCES


def test_lines_are_those_of_the_first_tokens(tmp_path: Path):
    text = f"-DOCSTART- O\n\n# comment\n{PLAIN}"
    assert [line for _, line in read(opened(tmp_path, text))] == [4, 7]


def test_a_token_may_be_a_hash_sign(tmp_path: Path):
    text = "# O\n#weft B-TAG\nis O\n\n# a comment\n# 1 O\n# B-TAG\n"
    assert sentences(tmp_path, text) == [(["#", "#weft", "is"], ["O", "B-TAG", "O"]), (["#"], ["B-TAG"])]


def test_blanks_in_tokens_between_tabs(tmp_path: Path):
    assert sentences(tmp_path, "New York\tx y\tB-LOC\n") == [(["New York"], ["B-LOC"])]


def test_other_white_space_is_a_token(tmp_path: Path):
    assert sentences(tmp_path, "\u00a0 O\n\u3000\tO\n\u2028 O\n") == [
        (["\u00a0", "\u3000", "\u2028"], ["O"] * 3)
    ]


def test_chinese_by_character(tmp_path: Path):
    assert sentences(tmp_path, "北 B-LOC\n京 I-LOC\n。 O\n") == [
        (["北", "京", "。"], ["B-LOC", "I-LOC", "O"])
    ]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("EU B-ORG\nrejects\n", 2, "a token and a tag, but has one column: 'rejects'"),
        ("EU\nrejects\n", 1, "one column"),
        ("# text\nEU B-ORG\n\nPeter\t\n", 4, "one column"),
        ("EU B-ORG\nNew York B-LOC\n", 2, "must have 2 columns as the lines before it have, but has 3"),
        ("EU NNP B-ORG\nrejects O\n", 2, "must have 3 columns"),
        ("EU\tB-ORG\n\tO\n", 2, "one of them is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: int, says: str):
    with pytest.raises(DataError, match=rf"x\.conll:{line}: .*{says}"):
        sentences(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "is_conll"),
    [
        (PLAIN, True),
        (PLAIN.replace("\n", "\r\n"), True),
        ("-DOCSTART- -X- -X- O\n\nEU NNP I-NP I-ORG\n", True),
        ("# sent 1\na O\nb O\n", True),
        ("a\tS-PER\nb\tO\n\nc\tL-PER\n", True),
        ("text\tlabel\ngood\tpos\n", False),
        ("token\ttag\ngood\tO\n", False),
        ("I like it\nBlood type O\n", False),
        ("Blood type O\n", False),
        ("a O\nb c O\n", False),
        ("\n\n", False),
        ("# a\n# b\n", False),
    ],
)
def test_recognised_by_content(tmp_path: Path, text: str, is_conll: bool):
    assert looks_like(opened(tmp_path, text)) is is_conll


@pytest.mark.parametrize("line", ["", "\n", " \n", "\t\t\n", " \t \r\n"])
def test_blank_lines_have_no_columns(line: str):
    assert split(line) == []


WORD = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=" \t#"), min_size=1).filter(
    lambda word: word != "-DOCSTART-"
)
TAG = st.sampled_from(["O", "B-PER", "I-PER", "B-地点"])
SENTENCE = st.lists(st.tuples(WORD, TAG), min_size=1, max_size=6)


@settings(max_examples=40)
@given(
    st.lists(SENTENCE, min_size=1, max_size=4),
    st.sampled_from([" ", "\t", "  "]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, written: list[list[tuple[str, str]]], blank: str, end: str
):
    blocks = (end.join(f"{word}{blank}{tag}" for word, tag in sentence) for sentence in written)
    found = sentences(tmp_path_factory.mktemp("conll"), (end + end).join(blocks))
    assert [list(zip(*sentence, strict=True)) for sentence in found] == written
