"""The tables of the benchmark: medians, ratios round by round, scaling, rotation."""

from __future__ import annotations

import pytest
from bench.order import Figures, Lap, Score
from bench.table import (
    Scale,
    Wanted,
    job_table,
    memory_ratio,
    per_example,
    ratio,
    rotated,
    score_words,
    spread,
    summary_table,
    verdict,
)


def figures(seconds: float, *, examples: int = 100, peak: float = 1000.0) -> Figures:
    return Figures((Lap("epoch 1", seconds, examples),), peak_mib=peak, startup_s=2.0)


def test_each_round_begins_with_another_contestant_and_has_all():
    names = ["a", "b", "c"]
    rounds = [rotated(names, number) for number in range(4)]
    assert [one[0] for one in rounds] == ["a", "b", "c", "a"]
    assert all(sorted(one) == names for one in rounds)


def test_nobody_can_be_rotated():
    assert rotated([], 3) == []


def test_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians():
    theirs, ours = [2.0, 30.0, 5.0], [1.0, 10.0, 5.0]
    results = {"tuned": [figures(s) for s in theirs], "weft": [figures(s) for s in ours]}
    assert ratio(results, "epoch 1", "tuned") == 2.0  # of 2, 3, 1; the ratio of medians is 1


def test_fewer_rows_are_scaled_to_the_epoch():
    results = {"tutorial": [figures(10.0, examples=10)], "weft": [figures(20.0, examples=100)]}
    assert ratio(results, "epoch 1", "tutorial") == pytest.approx(5.0)
    assert per_example(results["tutorial"], "epoch 1") == [1.0]
    assert "for 10 of 100" in job_table(results, Scale())


def test_a_contestant_or_lap_that_is_not_there_has_no_ratio():
    results = {"weft": [figures(1.0)]}
    assert ratio(results, "epoch 1", "tuned") is None
    assert ratio({**results, "tuned": [figures(1.0)]}, "epoch 2", "tuned") is None
    assert ratio({"tuned": [figures(1.0)]}, "epoch 1", "tuned") is None


def test_rates_follow_from_scale():
    results = {"weft": [figures(2.0), figures(4.0), figures(5.0)]}
    table = job_table(results, Scale(tokens=20.0, flops=1e6, peak=1e9))
    row = [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]]
    assert row[:3] == ["weft", "epoch 1", "4 [2-5]"]
    assert row[3:6] == ["25", "500", "50.0%"]  # 100 / 4 s; times 20 tokens; times 1e6 / 1e9
    assert row[6:9] == ["1.00", "1000", "2.0"]


def test_what_belongs_to_the_process_stands_once():
    two = Figures((Lap("epoch 1", 1.0, 10), Lap("epoch 2", 1.0, 10)), peak_mib=77.0, startup_s=3.0)
    lines = job_table({"weft": [two]}, Scale()).splitlines()[2:]
    assert [("77" in line) for line in lines] == [True, False]


def test_memory_is_compared_round_by_round():
    results = {
        "common": [figures(1.0, peak=2000.0), figures(1.0, peak=4000.0), figures(1.0, peak=1000.0)],
        "weft": [figures(1.0, peak=1000.0), figures(1.0, peak=1000.0), figures(1.0, peak=900.0)],
    }
    assert memory_ratio(results, "common") == pytest.approx(0.5)
    assert memory_ratio(results, "nobody") is None


def test_scores_are_averaged_over_rounds_with_their_intervals():
    rounds = [[Score("sst2", "accuracy", v, v - 0.1, v + 0.1, 50)] for v in (0.8, 0.9)]
    assert score_words(rounds) == "sst2 accuracy 0.850 [0.750, 0.950] n=50"
    assert score_words([]) == ""


def test_verdicts_are_by_the_interval_of_the_peer():
    def scores(*values: float) -> list[Score]:
        return [Score("a", "f1", value, value - 0.05, value + 0.05, 100) for value in values]

    assert verdict(scores(0.85), scores(0.80, 0.82)) == "tie"
    assert verdict(scores(0.87), scores(0.80, 0.82)) == "better"
    assert verdict(scores(0.70, 0.80), scores(0.80, 0.82)) == "worse"


def test_spread_is_median_and_range():
    assert spread([3.0, 1.0, 2.0]) == "2 [1-3]"


def test_the_summary_quotes_tuned_first_and_what_is_wanted():
    wanted = Wanted("full", "epoch 1", {"tuned": 1.3, "common": 3})
    results = {
        "common": [figures(6.0)],
        "tuned": [figures(3.0)],
        "trl": [figures(4.0)],
        "weft": [figures(2.0)],
    }
    header, _, row = summary_table([(wanted, results)]).splitlines()
    assert header.index("tuned") < header.index("common") < header.index("tutorial")
    assert row == "| full | 1.50 (>= 1.3) | 3.00 (>= 3) | - | trl 2.00 |"
