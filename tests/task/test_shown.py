"""What tasks show of their answers: counts by hand, blocks of bounded size."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from weft.core.example import Answer
from weft.report.details import (
    MOST_CLASSES,
    Column,
    Histogram,
    Matrix,
    Part,
    Points,
    Reliability,
    SpanError,
    Table,
)
from weft.task.base import Shows
from weft.task.shown import (
    MOST_PAIRS,
    MOST_POINTS,
    answer_blocks,
    label_blocks,
    set_blocks,
    span_blocks,
    spread,
    tag_blocks,
    value_blocks,
)


def part(blocks, wanted):
    (found,) = [block for block in blocks if block.part is wanted]
    return found


def drawn(num_classes, num_rows, seed=0):
    random = np.random.default_rng(seed)
    labels = [f"c{at:02d}" for at in range(num_classes)]
    golds = random.integers(num_classes, size=num_rows)
    given = np.where(random.random(num_rows) < 0.6, golds, random.integers(num_classes, size=num_rows))
    return labels, [labels[at] for at in golds], [Answer(label=labels[at]) for at in given]


def test_confusion_and_scores_are_scikit_learns():
    labels, golds, answers = drawn(4, 200)
    blocks = label_blocks(golds, answers, labels, temperature=1.0)
    given = [answer.label for answer in answers]
    matrix = part(blocks, Part.CONFUSION)
    assert isinstance(matrix, Matrix)
    assert np.array_equal(matrix.counts, confusion_matrix(golds, given, labels=labels))
    assert matrix.folded == 0
    table = part(blocks, Part.CLASSES)
    assert isinstance(table, Table)
    wanted = precision_recall_fscore_support(golds, given, labels=labels)
    found = {row[0]: row[1:5] for row in table.rows}
    for at, label in enumerate(labels):
        assert found[label] == pytest.approx([measure[at] for measure in wanted])
    assert [row[3] for row in table.rows] == sorted(row[3] for row in table.rows)
    assert not any(block.part in (Part.PAIRS, Part.RELIABILITY) for block in blocks)


def test_many_classes_are_folded_and_left_out_but_counted():
    labels, golds, answers = drawn(60, 3000)
    blocks = label_blocks(golds, answers, labels, temperature=1.0)
    matrix = part(blocks, Part.CONFUSION)
    assert (len(matrix.labels), matrix.folded) == (MOST_CLASSES, 20)
    assert {len(row) for row in matrix.counts} == {MOST_CLASSES + 1} == {len(matrix.counts)}
    assert sum(map(sum, matrix.counts)) == 3000
    table = part(blocks, Part.CLASSES)
    assert (len(table.rows), table.more) == (MOST_CLASSES, 20)
    pairs = part(blocks, Part.PAIRS)
    assert len(pairs.rows) == MOST_PAIRS
    counts = [row[2] for row in pairs.rows]
    assert counts == sorted(counts, reverse=True)
    gold, answered, count, share = cast("tuple[str, str, int, float]", pairs.rows[0])
    assert gold != answered
    assert count == sum((g, a.label) == (gold, answered) for g, a in zip(golds, answers, strict=True))
    assert share == pytest.approx(count / golds.count(gold))


def test_labels_of_several_have_scores_of_their_own():
    golds = [("a", "b"), ("b",), ()]
    answers = [Answer(label=["a"]), Answer(label=["b", "c"]), Answer(label=[])]
    (table,) = set_blocks(golds, answers, temperature=1.0)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows == {"c": (0, 0, 0, 0, 1), "b": (1, 0.5, pytest.approx(2 / 3), 2, 1), "a": (1, 1, 1, 1, 1)}


def test_reliability_says_the_error_before_and_after(kit):
    bench = kit.bench("pairs")
    task = bench.task
    probabilities = [{"0": 0.9, "1": 0.05, "2": 0.05}] * 10
    golds = ["0"] * 6 + ["1"] * 4
    raw = [Answer(label="0", probabilities=one) for one in probabilities]
    fitted, tempered = task.calibrated(golds, raw)
    before = part(task.shown(golds, raw), Part.RELIABILITY)
    after = part(fitted.shown(golds, tempered), Part.RELIABILITY)
    assert isinstance(before, Reliability)
    assert before.error == before.before == pytest.approx(0.3)
    assert after.before == pytest.approx(0.3, abs=1e-6)
    assert after.error < 0.1
    assert after.temperature == fitted.temperature > 1
    ((only,),) = [before.bins]
    assert (only.claimed, only.true, only.count) == (pytest.approx(0.9), 0.6, 10)


def test_spans_are_wrong_in_five_ways():
    gold = ("B-A", "I-A", "O", "B-A", "I-A", "B-B", "O", "O", "B-A", "O")
    given = ("B-A", "I-A", "O", "B-B", "I-B", "B-B", "I-B", "O", "O", "B-B")
    # right: none beside A 0-2; A 3-5 has another type; B 5-6 is too long; A 8-9 is missed; B 9-10 is spurious
    table, errors = span_blocks([gold], [Answer(tags=given)])
    counts = {SpanError(row[0]): row[1] for row in errors.rows}
    assert counts == {
        SpanError.TYPE: 1,
        SpanError.BOUNDARY: 1,
        SpanError.MISSED: 1,
        SpanError.SPURIOUS: 1,
    }
    assert sum(row[2] for row in errors.rows) == pytest.approx(1)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["A"] == (1.0, pytest.approx(1 / 3), 0.5, 3, 1)
    assert rows["B"] == (0.0, 0.0, 0.0, 1, 3)
    (_, both) = span_blocks([("B-A", "I-A", "O")], [Answer(tags=("O", "B-B", "I-B"))])
    assert [row[0] for row in both.rows] == [SpanError.BOTH]
    assert errors.columns == (Column.ERROR, Column.COUNT, Column.SHARE)


def test_words_of_plain_tags_are_confused_like_rows():
    blocks = tag_blocks([("N", "V"), ("N",)], [Answer(tags=("N", "N")), Answer(tags=("N",))])
    matrix = part(blocks, Part.CONFUSION)
    assert (matrix.labels, matrix.counts) == (("N", "V"), ((2, 0), (1, 0)))


def test_numbers_are_shown_as_points_and_errors():
    golds = [float(at) for at in range(1000)]
    answers = [Answer(value=gold + (3 if gold < 500 else -1)) for gold in golds]
    points, errors = value_blocks(golds, answers)
    assert isinstance(points, Points)
    assert isinstance(errors, Histogram)
    assert (len(points.points), points.n) == (MOST_POINTS, 1000)
    assert points.points[0] == (0.0, 3.0)
    assert (errors.low, errors.high, sum(errors.counts)) == (-3.0, 3.0, 1000)
    assert errors.counts[-1] == 500
    right = value_blocks([1.0, 2.0], [Answer(value=1.0), Answer(value=2.0)])[1]
    assert right.counts[len(right.counts) // 2] == 2


@pytest.mark.parametrize(("num", "most"), [(0, 3), (2, 3), (3, 3), (10, 3), (1001, 400)])
def test_some_of_many_are_evenly_apart(num, most):
    found = spread(num, most)
    assert len(found) == min(num, most)
    assert found == sorted(set(found))
    assert all(0 <= at < num for at in found)


def test_families_that_show_something_say_so(kit):
    shows = {name: isinstance(kit.bench(name).task, Shows) for name in kit.samples}
    wanted = {"classification", "multi_label", "pairs", "regression", "tagging", "choice", "ordinal"}
    assert wanted <= {name for name, found in shows.items() if found}
    for name in wanted:
        bench = kit.bench(name)
        golds = [one.gold for one in bench.ask]
        answers = kit.answers(kit.network(bench.task), bench.task, bench.ask)
        assert bench.task.shown(golds, answers)


def test_classes_that_do_not_occur_have_no_row():
    blocks = label_blocks(
        ["a", "b"], [Answer(label="a"), Answer(label="a")], ["z", "b", "a"], temperature=1.0
    )
    assert part(blocks, Part.CONFUSION).labels == ("b", "a")


def test_pieces_of_a_context_are_wrong_in_four_ways():
    rows = [
        (("berlin",), "Berlin.", None),  # right
        (("in berlin", "berlin"), "in berlin today", SpanError.BOUNDARY),
        (("上海大学",), "上海", SpanError.BOUNDARY),
        (("berlin",), "paris", SpanError.ELSEWHERE),
        (("berlin",), "", SpanError.MISSED),
        ((), "paris", SpanError.SPURIOUS),
        ((), "", None),
    ]
    (table,) = answer_blocks([gold for gold, _, _ in rows], [Answer(text=text) for _, text, _ in rows])
    assert table.part is Part.SPAN_ERRORS
    assert {row[0]: row[1:] for row in table.rows} == {
        "wrong_boundary": (2, 2 / 5),
        "elsewhere": (1, 1 / 5),
        "missed": (1, 1 / 5),
        "spurious": (1, 1 / 5),
    }
    (none,) = answer_blocks([()], [Answer(text="")])
    assert none.rows == ()
