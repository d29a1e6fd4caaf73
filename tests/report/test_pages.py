"""The page and the Markdown document: whole, offline, escaped, the same every time, in two languages."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from weft.report.grids import leaving_grid, mixture_grid, score_grid, split_grid
from weft.report.html import render_html
from weft.report.markdown import escape, render_markdown
from weft.report.records import EvalReport, RunReport, TaskReport
from weft.report.words import EN, words_of

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Balance(HTMLParser):
    """Counts open elements and keeps what stands in them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page):
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    return balance


def with_leaving(report: RunReport) -> RunReport:
    stages = tuple(
        stage.model_copy(update={"leaving": stage.evaluations[-1].model_copy(update={"stage": stage.name})})
        for stage in report.stages
    )
    return report.model_copy(update={"stages": stages})


def renamed(report: RunReport, name: str) -> RunReport:
    """Return the report with its first task, and much else that people write, called ``name``."""
    text = report.model_dump_json()
    text = (
        text.replace('"sentiment"', f'"{name}"').replace('"no label"', f'"{name}"').replace("positive", name)
    )
    text = text.replace("data/train.csv", name).replace('"minilm"', f'"{name}"').replace("lora", name)
    return RunReport.model_validate_json(text)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_is_whole_and_needs_no_network(report, lang):
    page = render_html(with_leaving(report), lang=lang)
    balance = parsed(page)
    wanted = {"stages", "curves", "scores", "leaving", "mixture", "parameters", "data", "cost", "environment"}
    assert wanted <= set(balance.ids)
    links = [value or "" for name, value in balance.attributes if name in ("href", "src", "action", "data")]
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"(?<!xmlns=\")https?://(?!www\.w3\.org)", page)
    assert "@import" not in page
    assert "url(" not in page


def test_numbers_of_the_report_stand_on_the_page(report):
    page = render_html(report)
    for score in (task.scores[0] for one in report.final for task in one.tasks):
        assert f"{score.n:,}" in page
    assert "91.0" in page
    assert report.digest[:12] in page
    assert EN.all_beat in page


def test_the_same_report_gives_the_same_page(report):
    again = RunReport.model_validate_json(report.model_dump_json())
    assert again == report
    assert render_html(again) == render_html(report)
    assert render_markdown(again) == render_markdown(report)


def test_whatever_people_write_is_text_and_never_markup(report):
    evil = renamed(with_leaving(report), EVIL)
    page, document = render_html(evil), render_markdown(evil)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    parsed(page)
    assert "<script" not in document
    assert "&lt;script&gt;" in document


def test_chinese_page_speaks_chinese(report):
    page = render_html(report, lang="zh")
    assert 'lang="zh' in page
    assert words_of("zh").scores in page
    assert EN.scores not in page
    with pytest.raises(ValueError, match="fr"):
        render_html(report, lang="fr")


def test_a_run_without_results_yet_has_a_page(report):
    bare = report.model_copy(update={"stages": (), "final": (), "finished": False})
    page = render_html(bare)
    parsed(page)
    assert EN.no_final in page
    assert EN.unfinished in page
    assert EN.no_final in render_markdown(bare)


def test_a_stage_without_evaluations_or_with_skipped_steps_is_shown(report):
    first = report.stages[0].model_copy(update={"evaluations": (), "skipped": 3})
    page = render_html(report.model_copy(update={"stages": (first, *report.stages[1:])}))
    parsed(page)
    document = render_markdown(report.model_copy(update={"stages": (first,)}))
    assert "3 steps were not applied" in document


def test_every_stage_tells_what_it_handed_on(report):
    grid = leaving_grid(with_leaving(report), EN)
    assert [label for label, _ in grid.columns] == [EN.task, *(stage.name for stage in report.stages)]
    rows = {row[0]: row[1:] for row in grid.rows}
    last = report.stages[1].evaluations[-1].tasks
    assert {name for name, cells in rows.items() if cells[1] != "–"} == {task.task for task in last}
    assert leaving_grid(report, EN).rows == ()


def test_mixture_says_what_was_wanted_and_what_was_drawn(report):
    rows = mixture_grid(report, EN).rows
    drawn = {(row[0], row[1]): row[4] for row in rows}
    for stage in report.stages:
        for name, count in stage.examples.items():
            assert drawn[stage.name, name] == f"{count:,}"


def test_markdown_tables_have_as_many_cells_as_headings(report):
    document = render_markdown(with_leaving(report))
    blocks = re.findall(r"(?:^\|.*\|$\n?)+", document, re.MULTILINE)
    assert len(blocks) >= 7
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
        assert len(widths) == 1


def test_markdown_says_when_the_judging_rows_also_chose(report):
    final = report.final[0]
    dev = tuple(TaskReport(**{**dict(task), "split": "held-out"}) for task in final.tasks)
    chosen = report.model_copy(update={"final": (EvalReport(**{**dict(final), "tasks": dev}),)})
    assert "also chose the checkpoint" in render_markdown(chosen)
    tested = tuple(TaskReport(**{**dict(task), "split": "test"}) for task in final.tasks)
    honest = report.model_copy(update={"final": (EvalReport(**{**dict(final), "tasks": tested}),)})
    assert "also chose the checkpoint" not in render_markdown(honest)


def test_escape_keeps_text_on_one_line():
    assert escape("a|b\n<c> *d* [e]") == "a\\|b &lt;c&gt; \\*d\\* \\[e\\]"


@pytest.mark.parametrize(
    ("lang", "examples", "perplexity"), [("en", "examples", "perplexity"), ("zh", "样本", "困惑度")]
)
def test_texts_in_blocks_are_counted_beside_their_rows_and_have_a_perplexity(
    report, lang, examples, perplexity
):
    words = words_of(lang)
    plain = report.data.tasks[0]
    assert examples not in [label for label, _ in split_grid(plain, words).columns]
    blocks = tuple(split.model_copy(update={"examples": 10 * split.used}) for split in plain.splits)
    task = plain.model_copy(update={"splits": blocks})
    grid = split_grid(task, words)
    assert [label for label, _ in grid.columns][1:4] == [words.read, words.used, examples]
    assert [row[3] for row in grid.rows] == [f"{10 * split.used:,}" for split in plain.splits]
    assert {len(row) for row in grid.rows} == {len(grid.columns)}
    data = report.data.model_copy(update={"tasks": (task, *report.data.tasks[1:])})
    before = {row[:2]: row[-1] for row in mixture_grid(report, words).rows}
    after = {row[:2]: row[-1] for row in mixture_grid(report.model_copy(update={"data": data}), words).rows}
    (key, passes), *_ = ((key, one) for key, one in before.items() if key[1] == task.task)
    assert float(after[key]) == pytest.approx(float(passes) / 10, abs=0.006)
    final = report.final[0]
    judged = final.tasks[0].model_copy(update={"loss": 2.0, "is_chosen_by_loss": True})
    changed = report.model_copy(
        update={"final": (final.model_copy(update={"tasks": (judged, *final.tasks[1:])}),), "data": data}
    )
    found = [row for row in score_grid(changed, words).rows if row[2] == perplexity]
    assert found == [(judged.task, judged.split, perplexity, "7.39", "–", "–", "–")]
    page = render_html(changed, lang=lang)
    parsed(page)
    assert page.count(f"{perplexity} 7.39") == 1
    assert len(re.findall(rf">{perplexity}</td>", page)) == 1
    assert perplexity not in render_html(report, lang=lang)
