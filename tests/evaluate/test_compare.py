"""Saved answers come back as they were; two runs are compared row by row, and a tie is called a tie."""

from __future__ import annotations

import pytest

from weft.core.example import Answer
from weft.errors import DataError
from weft.evaluate.compare import Candidate, compare, distance, recipe_differences
from weft.evaluate.predictions import answer_from_json, read_predictions, write_predictions
from weft.report.records import Verdict


def mood(label):
    return Answer(label=label, probabilities={"bad": 0.25, "good": 0.75})


def saved(toy, path, task, golds, answers, *, split="test"):
    rows = [toy.row((1,), gold=gold, where=f"f:{at}") for at, gold in enumerate(golds)]
    write_predictions(path, toy.tasks[task], rows, answers, split=split)
    return read_predictions(path)


class TestFiles:
    def test_answers_come_back(self, toy, tmp_path):
        answers = [mood("good"), Answer(label="坏", extra={"note": "é"}), Answer(label=["a", "b"])]
        file = saved(toy, tmp_path / "deep" / "mood.jsonl", "mood", ["good", None, ("a", "b")], answers)
        assert [row.answer for row in file.rows] == answers
        assert [row.gold for row in file.rows] == ["good", None, ("a", "b")]
        assert [row.where for row in file.rows] == ["f:0", "f:1", "f:2"]
        assert (file.task, file.kind, file.split) == ("mood", "classification", "test")
        assert type(toy.tasks["mood"]).from_config("mood", file.config) == toy.tasks["mood"]

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(tags=("O", "B-X"), spans=({"type": "X", "start": 1, "end": 2, "text": "a"},)),
            Answer(value=0.25),
            Answer(text="line\nbreak"),
        ],
    )
    def test_every_kind_of_answer_comes_back(self, answer):
        assert answer_from_json(answer.to_json()) == answer

    def test_what_is_not_such_a_file_is_refused_with_its_line(self, toy, tmp_path):
        path = tmp_path / "mood.jsonl"
        with pytest.raises(DataError, match="there is none"):
            read_predictions(path)
        saved(toy, path, "mood", ["good"], [mood("good")])
        text = path.read_text(encoding="utf-8")
        path.write_text(text + "{broken\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"mood\.jsonl:3"):
            read_predictions(path)
        path.write_text(text + '{"where": "x"}\n', encoding="utf-8")
        with pytest.raises(DataError, match=r"mood\.jsonl:3: must have where, gold and answer"):
            read_predictions(path)
        path.write_text('{"format": 99}\n', encoding="utf-8")
        with pytest.raises(DataError, match=r"mood\.jsonl:1"):
            read_predictions(path)


def candidate(toy, tmp_path, name, labels, *, golds, recipe=None):
    file = saved(toy, tmp_path / name / "mood.jsonl", "mood", golds, [mood(label) for label in labels])
    return Candidate(name, recipe or {}, {"mood": file})


def contest(toy, a, b):
    return compare(a, b, toy.tasks, resamples=500, seed=0)


class TestCompare:
    GOLDS = ("good", "bad") * 20

    def test_more_right_answers_are_better_seen_from_the_second(self, toy, tmp_path):
        half = ["good"] * 40
        a = candidate(toy, tmp_path, "a", half, golds=self.GOLDS, recipe={"seed": 0})
        b = candidate(toy, tmp_path, "b", self.GOLDS, golds=self.GOLDS, recipe={"seed": 1})
        report = contest(toy, a, b)
        (task,) = report.tasks
        accuracy = task.metrics[0]
        assert (accuracy.a, accuracy.b, accuracy.difference) == (0.5, 1.0, 0.5)
        assert accuracy.low > 0
        assert accuracy.verdict is Verdict.BETTER
        assert contest(toy, b, a).tasks[0].metrics[0].verdict is Verdict.WORSE
        assert (task.rows_better, task.rows_worse) == (20, 0)
        assert all(
            row.is_better and row.gold == "bad" and (row.a, row.b) == ("good", "bad") for row in task.changed
        )
        assert [(one.key, one.a, one.b) for one in report.recipe] == [("seed", "0", "1")]

    def test_a_difference_inside_the_noise_is_a_tie(self, toy, tmp_path):
        once_wrong = ["bad", *self.GOLDS[1:]]
        other_wrong = [*self.GOLDS[:-1], "good"]
        a = candidate(toy, tmp_path, "a", once_wrong, golds=self.GOLDS)
        b = candidate(toy, tmp_path, "b", other_wrong, golds=self.GOLDS)
        task = contest(toy, a, b).tasks[0]
        assert task.metrics[0].verdict is Verdict.TIE
        assert task.metrics[0].p > 0.5
        assert (task.rows_better, task.rows_worse) == (1, 1)

    def test_smaller_errors_are_better(self, toy, tmp_path):
        golds = [float(at % 7) for at in range(40)]
        files = {
            name: saved(toy, tmp_path / f"{name}.jsonl", "score", golds, [Answer(value=gold + off) for gold in golds])
            for name, off in (("a", 1.0), ("b", 0.1))
        }  # fmt: skip
        a, b = (Candidate(name, {}, {"score": file}) for name, file in files.items())
        metrics = {metric.metric: metric for metric in contest(toy, a, b).tasks[0].metrics}
        assert metrics["rmse"].verdict is Verdict.BETTER
        assert metrics["rmse"].difference == pytest.approx(-0.9)
        assert metrics["pearson"].verdict is Verdict.TIE

    def test_other_rows_or_other_golds_cannot_be_compared(self, toy, tmp_path):
        a = candidate(toy, tmp_path, "a", self.GOLDS, golds=self.GOLDS)
        fewer = candidate(toy, tmp_path, "b", self.GOLDS[:-3], golds=self.GOLDS[:-3])
        with pytest.raises(DataError, match="3 are in the first only and 0 in the second only"):
            contest(toy, a, fewer)
        turned = candidate(toy, tmp_path, "c", self.GOLDS, golds=("bad", *self.GOLDS[1:]))
        with pytest.raises(DataError, match="1 of 40 differ"):
            contest(toy, a, turned)

    def test_tasks_that_only_one_answered_are_named(self, toy, tmp_path):
        a = candidate(toy, tmp_path, "a", self.GOLDS, golds=self.GOLDS)
        extra = saved(toy, tmp_path / "score.jsonl", "score", [1.0], [Answer(value=1.0)])
        b = Candidate("b", {}, {**a.predictions, "score": extra})
        report = contest(toy, a, b)
        assert (report.only_a, report.only_b) == ((), ("score",))
        with pytest.raises(DataError, match="common task"):
            contest(toy, a, Candidate("c", {}, {"score": extra}))


@pytest.mark.parametrize(
    ("gold", "answer", "far"),
    [
        ("good", Answer(label="good"), 0.0),
        ("good", Answer(label="bad"), 1.0),
        (("a", "b"), Answer(label=["b", "a"]), 0.0),
        (2.0, Answer(value=2.5), 0.5),
        (("O", "B-X", "O"), Answer(tags=("O", "O")), 2.0),
        ("yes", Answer(text=" yes "), 0.0),
        (("yes", "yes, it is"), Answer(text="yes, it is"), 0.0),
        (("yes", "no"), Answer(text="yes no"), 1.0),
        ((), Answer(text=""), 0.0),
        ((), Answer(text="something"), 1.0),
    ],
)
def test_distance_from_gold(gold, answer, far):
    assert distance(gold, answer) == far


def test_recipe_differences_go_to_the_leaves():
    a = {"seed": 0, "stages": [{"name": "x", "lr": None}], "only": {"a": 1}}
    b = {"seed": 0, "stages": [{"name": "x", "lr": 0.1}, {"name": "y"}]}
    found = {one.key: (one.a, one.b) for one in recipe_differences(a, b)}
    assert found["stages.0.lr"] == ("null", "0.1")
    assert found["only.a"] == ("1", None)
    assert found["stages.1.name"] == (None, '"y"')
    assert "seed" not in found
