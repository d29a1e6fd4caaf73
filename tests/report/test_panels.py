"""What answers look like on the page: every block drawn, in two languages, and nothing in it taken as markup."""

from __future__ import annotations

import re

import pytest

from weft.report.detail_words import EN, ZH
from weft.report.details import (
    Bin,
    Column,
    Example,
    Examples,
    Histogram,
    Matrix,
    Part,
    Points,
    Reliability,
    Slice,
    Slices,
    SpanError,
    Table,
    TaskDetail,
)
from weft.report.html import render_evaluation, render_html
from weft.report.markdown import render_markdown
from weft.report.plots import confusion_map, histogram, reliability_bars, scatter
from weft.report.records import GIVEN, BundleReport, RunReport
from weft.report.words import EN as WORDS
from weft.report.words import ZH as WORDS_ZH

EVIL = "<script>alert(1)</script>"


def make_blocks(name: str = "pos"):
    scores = (Column.CLASS, Column.PRECISION, Column.RECALL, Column.F1, Column.NUM_GOLD, Column.NUM_ANSWERED)
    pairs = (Column.GOLD, Column.ANSWERED, Column.COUNT, Column.SHARE)
    errors = (Column.ERROR, Column.COUNT, Column.SHARE)
    example = Example(where=f"{name}.csv:7", text=f"a {name} film", gold=name, answer="neg", confidence=0.75)
    return (
        Matrix(part=Part.CONFUSION, labels=(name, "neg"), counts=((8, 2, 1), (1, 4, 0), (0, 0, 0)), folded=3),
        Table(part=Part.PAIRS, columns=pairs, rows=((name, "neg", 2, 0.2),)),
        Table(part=Part.CLASSES, columns=scores, rows=((name, 0.5, 0.25, 1 / 3, 12, 6),) * 20, more=7),
        Reliability(
            num_bins=15,
            bins=(Bin(claimed=0.5, true=0.25, count=4), Bin(claimed=0.99, true=1.0, count=16)),
            error=0.06,
            before=0.2,
            temperature=1.7,
        ),
        Table(part=Part.SPAN_TYPES, columns=scores, rows=((name, 1.0, 1.0, 1.0, 3, 3),)),
        Table(part=Part.SPAN_ERRORS, columns=errors, rows=tuple((str(kind), 3, 0.2) for kind in SpanError)),
        Points(points=((0.0, 1.0), (4.0, 3.0)), n=900),
        Histogram(low=-2.0, high=2.0, counts=(1, 0, 4, 2)),
        Slices(
            metric="accuracy",
            best=1.0,
            higher_is_better=True,
            slices=(
                Slice(low=3, high=9, value=0.9, interval=(0.8, 0.95), n=50),
                Slice(low=10, high=10, value=0.7, interval=(0.6, 0.8), n=51),
            ),
        ),
        Examples(part=Part.WORST, examples=(example,)),
        Examples(part=Part.SAMPLES, examples=(example,)),
    )


def detailed(report: RunReport, name: str = "pos") -> RunReport:
    task = TaskDetail(task=name, kind="classification", split="test", blocks=make_blocks(name))
    return report.model_copy(update={"details": (task,)})


@pytest.mark.parametrize("words", [EN, ZH])
def test_everything_that_is_shown_has_a_name(words):
    for key in (*Part, *Column, *SpanError):
        assert words.title(key)
    assert all(words.lead(part) for part in Part)


@pytest.mark.parametrize(("lang", "words"), [("en", EN), ("zh", ZH)])
def test_every_block_stands_on_the_page(report, lang, words):
    page = render_html(detailed(report), lang=lang)
    assert {block.part for block in make_blocks()} == set(Part)
    for part in Part:
        assert f"<h4>{words.title(part)}</h4>" in page
    for kind in SpanError:
        assert f"<td>{words.title(kind)}</td>" in page
    for said in ("33.3", "20.0 %", "3–9", "a pos film", words.left_out.format(6), words.not_shown.format(7)):
        assert said in page
    assert words.tempered.format("0.0600", "1.70", "0.200") in page
    assert words.drawn_of.format(2, 900) in page
    assert words.others.format(3) in page


@pytest.mark.parametrize(("lang", "title"), [("en", "Evaluation"), ("zh", "评估报告")])
def test_an_evaluation_by_itself_is_the_same_page_without_what_a_run_did(report, lang, title):
    run = detailed(report)
    alone = BundleReport(
        weft="0.1.0",
        name="here",
        model="minilm",
        details=run.details,
        **run.final[0].model_dump(include={"split", "selection"}),
        tasks=run.final[0].tasks,
    )
    page, whole = render_evaluation(alone, lang=lang), render_html(run, lang=lang)
    assert re.findall(r'<section id="(\w+)">', page) == ["scores", "details"]
    for start, end in (('<section id="scores">', '<section id="leaving">'), ('<div class="cards">', "<nav>")):
        section = whole[whole.index(start) :].split(end)[0].split('<section id="mixture">')[0]
        assert section in page
    assert f"<title>here · {title}</title>" in page
    assert BundleReport.model_validate_json(alone.model_dump_json()) == alone


@pytest.mark.parametrize(("lang", "words"), [("en", WORDS), ("zh", WORDS_ZH)])
def test_a_page_on_files_that_are_given_does_not_speak_of_training_or_dev_rows(report, lang, words):
    """No checkpoint was chosen by them, and their baseline knows no other labels than theirs."""
    tasks = tuple(task.model_copy(update={"split": "new.csv"}) for task in report.final[0].tasks)
    told = {"weft": "0.1.0", "name": "here", "model": "minilm", "tasks": tasks, "selection": 0.5}
    given, own = (
        render_evaluation(BundleReport(split=split, **told), lang=lang) for split in (GIVEN, "test")
    )
    assert words.given_lead in given
    assert words.scores_lead not in given
    assert words.dev_chose not in given
    assert words.scores_lead in own
    assert words.dev_chose in own, "a run without test rows is judged on those that chose"


def test_a_run_without_details_has_no_such_section(report):
    assert 'id="details"' not in render_html(report)
    assert 'id="details"' in render_html(detailed(report))


def test_texts_of_rows_and_labels_are_never_markup(report):
    page = render_html(detailed(report, EVIL))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 8


def test_details_survive_json(report):
    whole = detailed(report)
    assert RunReport.model_validate_json(whole.model_dump_json()) == whole


def test_a_matrix_has_a_cell_for_each_pair_and_shades_by_row():
    matrix = make_blocks()[0]
    drawn = confusion_map(matrix, others="3 others", title="t")
    assert drawn.count("<rect") == 9
    shades = [float(found) for found in re.findall(r'fill-opacity="([\d.]+)"', drawn)]
    assert shades[0] == pytest.approx(0.06 + 0.94 * 8 / 11, abs=0.01)
    assert drawn.count('class="right"') == 2
    assert drawn.count('class="none"') == 4
    assert "pos → neg: 2 (18.2 %)" in drawn


def test_large_matrices_are_drawn_without_numbers():
    size = 41
    counts = tuple(tuple(int(a == b) for a in range(size)) for b in range(size))
    matrix = Matrix(part=Part.CONFUSION, labels=tuple(f"class {at}" for at in range(size)), counts=counts)
    drawn = confusion_map(matrix, others="", title="t")
    assert drawn.count("<rect") == size**2
    assert 'class="cell' not in drawn


def test_bars_are_as_high_as_what_came_true():
    found = make_blocks()[3]
    heights = [
        float(h)
        for h in re.findall(r'height="([\d.]+)"', reliability_bars(found, x_label="", y_label="", title=""))
    ]
    assert heights[0] / heights[1] == pytest.approx(0.25, abs=0.01)


def test_points_lie_where_they_belong():
    drawn = scatter(make_blocks()[6], x_label="gold", y_label="answered", title="t")
    (x0, y0), (x1, y1) = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert x0 < x1
    assert y0 > y1  # svg's y grows downwards
    equal = Points(points=((2.0, 2.0),), n=1)
    assert "<circle" in scatter(equal, x_label="", y_label="", title="")


def test_a_histogram_has_a_bar_where_there_is_something():
    drawn = histogram(make_blocks()[7], x_label="", y_label="", title="t")
    heights = [float(found) for found in re.findall(r'height="([\d.]+)"', drawn)]
    assert len(heights) == 3
    assert heights[1] / heights[2] == pytest.approx(2, abs=0.01)


def test_the_document_has_the_tables_and_their_scores(report):
    document = render_markdown(detailed(report, "a|b"))
    assert f"## {WORDS.details}" in document
    assert f"a\\|b: {EN.classes}" in document
    assert "| a\\|b | 50.0 | 25.0 | 33.3 | 12 | 6 |" in document
    assert "| 3–9 | 90.0 \\[80.0, 95.0\\] | 50 |" in document
    assert f"## {WORDS.details}" not in render_markdown(report)


def test_a_table_without_rows_is_not_shown(report):
    empty = Table(part=Part.SPAN_ERRORS, columns=(Column.ERROR, Column.COUNT, Column.SHARE), rows=())
    task = TaskDetail(task="t", kind="tagging", split="dev", blocks=(empty,))
    shown = report.model_copy(update={"details": (task,)})
    assert EN.span_errors not in render_html(shown)
    assert EN.span_errors not in render_markdown(shown)
