"""One run against the sum of four."""

from __future__ import annotations

from bench.order import Figures, Lap, Score
from bench.pertask import TOGETHER, table
from bench.strategies import KINDS


def figures(names, seconds, whole):
    scores = tuple(Score(name, "m", 0.5, 0.4, 0.6, 10) for name in names)
    return Figures((Lap("training", seconds, 5),), scores, 9.0, whole_s=whole)


def test_time_together_is_held_against_the_sum_of_the_four_round_by_round():
    results = {TOGETHER: [figures(KINDS, 4.0, 10.0), figures(KINDS, 8.0, 10.0), figures(KINDS, 4.0, 10.0)]}
    results |= {name: [figures([name], 2.0, 5.0)] * 3 for name in KINDS}
    lines = table(results).splitlines()
    assert "| sst2 | m | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] |" in lines
    assert "| training, s | 4.0 | 8.0 | 2.00 |" in lines
    assert "| whole processes, s | 10.0 | 20.0 | 2.00 |" in lines
