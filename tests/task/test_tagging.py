"""Tagging: words on WordPiece, schemes kept or repaired, spans with their text."""

from __future__ import annotations

import pytest
import torch

from weft.core.batch import Batch
from weft.core.example import Dropped, Purpose
from weft.errors import DataError
from weft.metric.tagging import spans
from weft.task.batching import make_batch
from weft.task.schemes import Scheme
from weft.task.tagging import Tagging

ROWS = [
    {"tokens": ["john", "smith", "sleeps"], "tags": ["B-PER", "I-PER", "O"]},
    {"tokens": ["paris"], "tags": ["B-LOC"]},
]


def _tagged(*rows):
    return [{"tokens": tokens.split(), "tags": tags.split()} for tokens, tags in rows]


class Told(torch.nn.Module):
    """A head that has been told the logits of every word."""

    def __init__(self, labels: list[int], num_labels: int) -> None:
        super().__init__()
        self.logits = torch.nn.functional.one_hot(torch.tensor(labels), num_labels).float()

    def forward(self, features, target):
        return self.logits[: len(target.values["positions"])]


def _answers(kit, task, rows, labels):
    network = kit.network(task)
    network.heads[task.name] = Told([task.labels.index(label) for label in labels], len(task.labels))
    return kit.answers(network, task, task.encode(kit.rows(rows), kit.words, Purpose.ANSWER))


def test_words_are_learnt_at_their_first_piece(kit):
    bench = kit.bench("tagging")
    pieces = kit.words.plain(["unbelievable"])[0]
    assert len(pieces) > 1
    encoded = bench.learn[3]  # the unbelievable dog sleeps
    assert encoded.target.positions == (1, 2, 2 + len(pieces), 3 + len(pieces))
    assert [encoded.tokens[at] for at in encoded.target.positions] == [
        kit.words.plain([word])[0][0] for word in ("the", "unbelievable", "dog", "sleeps")
    ]
    assert encoded.target.labels == (0, 0, 0, 0)


def test_targets_address_first_pieces_in_the_whole_batch(kit):
    bench = kit.bench("tagging")
    batch: Batch = make_batch(
        [("tagging", one) for one in bench.learn], {"tagging": bench.task}, pad=0, packed=True
    )
    target = batch.targets["tagging"]
    words = [word for row in bench.learn for word in row.target.words]
    assert target.weight == len(words) == len(target.values["positions"])
    found = [batch.tokens[at].item() for at in target.values["positions"]]
    assert found == [kit.words.plain([word])[0][0] for word in words]
    tags = [bench.task.labels[label] for label in target.values["labels"]]
    assert tags == [tag for row in bench.learn for tag in row.gold]


def test_tags_are_complete_for_the_types_seen(kit):
    task = kit.bench("tagging").task
    assert (task.scheme, task.num_repaired) == (Scheme.BIO, 0)
    assert task.labels == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-X I-X O B-Y", Scheme.BIO),
        ("I-X B-X O I-Y", Scheme.IOB1),
        ("B-X E-X O S-Y", Scheme.BIOES),
        ("B-X E-X O U-Y", Scheme.BIOES),
        ("I-X I-X O I-Y", Scheme.IO),
        ("NN VB DT NN", Scheme.PLAIN),
    ],
)
def test_schemes_are_recognised_and_kept_in_answers(kit, tags, scheme):
    task = kit.fit("tagging", _tagged(("a b c d", tags)))
    assert task.scheme is scheme
    (encoded,) = task.encode(kit.rows(_tagged(("a b c d", tags))), kit.words, Purpose.LEARN)
    assert [task.labels[label] for label in encoded.target.labels] == list(encoded.gold)
    (answer,) = _answers(kit, task, [{"tokens": ["a", "b", "c", "d"]}], encoded.gold)
    assert answer.tags == encoded.gold
    names = [metric.name for metric in task.metrics]
    if scheme is Scheme.PLAIN:
        assert (answer.spans, names) == (None, ["token_accuracy"])
    else:
        assert [(span["type"], span["start"], span["end"]) for span in answer.spans] == spans(
            tags.replace("U-", "S-").split()
        )
        assert names == ["span_f1", "span_precision", "span_recall", "token_accuracy"]


def test_broken_tags_are_repaired_and_counted(kit):
    rows = _tagged(("a b c d e", "O I-X I-X O B-X"), ("a b", "B-X I-X"), ("a b c", "B-X B-X O"))
    task = kit.fit("tagging", rows)
    assert (task.scheme, task.num_repaired) == (Scheme.BIO, 1)
    first = task.encode(kit.rows(rows), kit.words, Purpose.LEARN)[0]
    assert first.gold == ("O", "B-X", "I-X", "O", "B-X")
    assert task.describe([first.gold]) == {"words": 5, "X": 2, "tags repaired in training rows": 1}


def test_or_such_rows_are_dropped(kit):
    rows = _tagged(("a b c d e", "O I-X I-X O B-X"), ("a b", "B-X I-X"), ("a b c", "B-X B-X O"))
    task = kit.fit("tagging", rows, repair=False)
    found = task.encode(kit.rows(rows), kit.words, Purpose.LEARN)
    assert found[0] == Dropped("rows.jsonl:1", "tags break scheme bio")
    assert [one.gold for one in found[1:]] == [("B-X", "I-X"), ("B-X", "B-X", "O")]
    assert task.num_repaired == 0


def test_the_scheme_may_be_said(kit):
    rows = _tagged(("a b c", "PER PER O"))
    assert kit.fit("tagging", rows).scheme is Scheme.PLAIN
    task = kit.fit("tagging", rows, scheme="io")
    assert task.labels == ("O", "I-PER")
    assert task.encode(kit.rows(rows), kit.words, Purpose.LEARN)[0].gold == ("I-PER", "I-PER", "O")
    mixed = _tagged(("a b", "B-X NN"))
    with pytest.raises(DataError, match=r"mixed: B-X, NN.*give a scheme"):
        kit.fit("tagging", mixed)
    assert kit.fit("tagging", mixed, scheme="plain").labels == ("B-X", "NN")
    bio = kit.fit("tagging", [*mixed, *ROWS], scheme="bio")
    assert bio.encode(kit.rows(mixed), kit.words, Purpose.LEARN)[0].reason == "tag not of scheme bio"


def test_ids_are_named_by_the_labels_of_the_recipe(kit):
    rows = [{"tokens": ["john", "smith", "x"], "ner_tags": [1, 2, 0]}, {"tokens": ["he"], "ner_tags": [0]}]
    task = kit.fit("tagging", rows, labels=["O", "B-PER", "I-PER"])
    assert task.encode(kit.rows(rows), kit.words, Purpose.LEARN)[0].gold == ("B-PER", "I-PER", "O")
    strange = [{"tokens": ["x", "y"], "ner_tags": [0, 7]}, {"tokens": ["x"], "ner_tags": ["B-PER"]}]
    found = task.encode(kit.rows(strange), kit.words, Purpose.LEARN)
    assert found[0].reason == "tag not of scheme bio"
    assert found[1].gold == ("B-PER",)
    written = kit.fit("tagging", ROWS)  # ids have no meaning for a task that learnt names
    assert (
        written.encode(kit.rows([{"tokens": ["x"], "tags": [1]}]), kit.words, Purpose.LEARN)[0].reason
        == found[0].reason
    )
    assert kit.fit("tagging", ROWS, labels=["B-PER", "I-PER", "O", "B-LOC"]).labels[0] == "B-PER"
    with pytest.raises(DataError, match="holds ids"):
        kit.fit("tagging", rows)
    with pytest.raises(DataError, match="must be different tags of scheme bio"):
        kit.fit("tagging", ROWS, labels=["O", "PER"], scheme="bio")


def test_rows_without_spans_or_tags_are_refused(kit):
    with pytest.raises(DataError, match="at least two different tags"):
        kit.fit("tagging", _tagged(("a b", "O O")))
    with pytest.raises(DataError, match="tags"):
        kit.fit("tagging", [{"tokens": ["a"]}])


def test_unusable_rows_are_dropped_with_their_reason(kit):
    task = kit.fit("tagging", ROWS)
    rows = [
        {"tokens": ["a", "b"], "tags": ["O"]},
        {"tokens": [], "tags": []},
        {"tokens": ["a"], "tags": ["B-NEW"]},
        {"tokens": ["a"], "tags": ["S-PER"]},
        {"tokens": ["a"], "tags": None},
        {"tokens": [" "], "tags": ["O"]},
    ]
    found = task.encode(kit.rows(rows), kit.words, Purpose.LEARN)
    assert [one.reason for one in found] == [
        "tokens and tags differ in number",
        "no tokens",
        "tag not in the list",
        "tag not of scheme bio",
        "no tags",
        "no word has a piece",
    ]


def test_chinese_by_character(kit):
    rows = [
        {"tokens": "我在上海", "tags": "O O B-LOC I-LOC"},
        {"tokens": list("北京人"), "tags": ["B-LOC", "I-LOC", "O"]},
    ]
    task = kit.fit("tagging", rows)
    first, second = task.encode(kit.rows(rows), kit.words, Purpose.LEARN)
    assert first.target.words == tuple("我在上海")
    assert first.target.positions == (1, 2, 3, 4)
    (answer,) = _answers(kit, task, [{"tokens": "我在上海"}], first.gold)
    assert answer.spans == (
        {"type": "LOC", "start": 2, "end": 4, "text": "上海", "start_char": 2, "end_char": 4},
    )
    assert second.gold == ("B-LOC", "I-LOC", "O")


def test_a_sentence_is_answered_word_by_word(kit):
    task = kit.fit("tagging", ROWS)
    row = task.ask("John Smith sleeps in Paris.")
    (encoded,) = task.encode([row], kit.words, Purpose.ANSWER)
    assert encoded.target.words == ("John", "Smith", "sleeps", "in", "Paris", ".")
    (answer,) = _answers(kit, task, [row.values], ["B-PER", "I-PER", "O", "O", "B-LOC", "O"])
    assert [(span["text"], span["start_char"], span["end_char"]) for span in answer.spans] == [
        ("John Smith", 0, 10),
        ("Paris", 21, 26),
    ]
    with pytest.raises(DataError, match="one text"):
        task.ask("one", "two")


def test_a_span_is_said_as_it_stands_in_the_text(kit):
    """With all its blanks, and by the characters of this occurrence; words of a list stand in no text."""
    task = kit.fit("tagging", ROWS)
    text = 'Smith met  "John  Smith"'
    golds = ["B-PER", "O", "O", "B-PER", "I-PER", "O"]
    (answer,) = _answers(kit, task, [{"tokens": text}], golds)
    assert [span["text"] for span in answer.spans] == ["Smith", "John  Smith"]
    assert all(text[span["start_char"] : span["end_char"]] == span["text"] for span in answer.spans)
    (listed,) = _answers(kit, task, [{"tokens": ["John", "Smith"]}], golds[3:5])
    assert listed.spans == ({"type": "PER", "start": 0, "end": 2, "text": "John Smith"},)


def test_words_cut_off_or_without_pieces_are_outside(kit):
    task = kit.fit("tagging", ROWS)
    rows = [{"tokens": ["john", " ", *["cat"] * 80], "tags": ["B-PER", "O", *["O"] * 79, "B-LOC"]}]
    (learnt,) = task.encode(kit.rows(rows), kit.words, Purpose.LEARN)
    assert learnt.target.index[:2] == (0, 2)
    assert len(learnt.target.positions) == 62  # 64 tokens, less two special ones: john and 61 cats
    assert learnt.num_cut == 81 - 62
    assert len(learnt.gold) == 82
    (answer,) = _answers(kit, task, rows, ["B-LOC"] * 62)
    assert len(answer.tags) == 82
    assert answer.tags[1] == "O"
    assert set(answer.tags[-19:]) == {"O"}
    assert task.metrics[2].value([learnt.gold], [answer]) == 0.0  # what was cut off counts as missed


def test_a_batch_of_rows_without_pieces_is_answered(kit):
    task = kit.fit("tagging", ROWS)
    (answer,) = kit.answers(
        kit.network(task), task, task.encode(kit.rows([{"tokens": [" "]}]), kit.words, Purpose.ANSWER)
    )
    assert answer.tags == ("O",)


def test_the_baseline_is_outside_or_the_most_frequent_tag(kit):
    task = kit.fit("tagging", ROWS)
    golds = [("B-PER", "O", "O"), ("O",)]
    assert task.baseline(golds, 2)[0].tags == ("O", "O", "O")
    assert task.metrics[-1].value([("O",) * 5], task.baseline(golds, 1)) == 1.0
    plain = kit.fit("tagging", _tagged(("a b c", "NN NN VB")))
    assert plain.baseline([("VB", "NN", "NN")], 1)[0].tags == ("NN",) * 3
    assert plain.describe([("VB", "NN", "NN")]) == {"words": 3, "NN": 2, "VB": 1}


def test_why_a_head_cannot_be_kept(kit):
    task = kit.fit("tagging", ROWS)
    assert isinstance(task, Tagging)
    assert task.same_head({**task.config(), "labels": ["O", "B-LOC"]}) == (
        "the labels changed: now with I-LOC, B-PER, I-PER"
    )
    assert task.same_head({**task.config(), "num_repaired": 7, "repair": False}) is None


def test_a_head_has_a_bias_whatever_the_architecture(kit):
    head = kit.fit("tagging", ROWS).head(kit.trunk(has_bias=False).info, dropout=0.0, seed=0)
    assert head.out.bias is not None


def test_the_loss_is_a_sum_over_words(kit):
    task = kit.fit("tagging", ROWS)
    target = make_batch(
        [("t", one) for one in task.encode(kit.rows(ROWS), kit.words, Purpose.LEARN)], {"t": task}, pad=0
    ).targets["t"]
    loss = task.loss(torch.zeros(4, len(task.labels)), target)
    assert (loss.weight, target.weight, target.num_examples) == (4.0, 4.0, 2)
    torch.testing.assert_close(loss.total, 4 * torch.tensor(float(len(task.labels))).log())
