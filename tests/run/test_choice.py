"""What a rule chose is written down once, read afterwards, and refused where it was tampered with."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file

from weft.build.catalogue import open_recipe
from weft.core.view import ParamInfo, Site, SiteKind
from weft.errors import CheckpointError
from weft.run import session
from weft.run.choice import Recorded
from weft.run.events import Saved, StageStarted
from weft.run.folder import RunFolder
from weft.strategy.hybrid import HybridRule

NAMES = tuple("abcdefghij")
CANDIDATES = tuple(
    Site(name, SiteKind.LINEAR, name, (ParamInfo(f"{name}.weight", (2, 2)),)) for name in NAMES
)


class Counting:
    """Stands for gradients: every time it is asked it would choose others."""

    def __init__(self):
        self.asked = 0

    def scores(self, sites, rule, candidates):
        assert (sites, candidates) == ("network", CANDIDATES)
        self.asked += 1
        return {name: 1.0 / (1 + place) for place, name in enumerate(NAMES[self.asked :][: rule.count(10)])}


def test_a_choice_is_made_once_for_each_rule(tmp_path):
    fresh, path = Counting(), tmp_path / "stages" / "one" / "chosen.json"
    first = [
        Recorded(path, fresh, "network")(HybridRule(share=0.3), CANDIDATES, number=number)
        for number in (1, 3)
    ]
    assert first == [("b", "c", "d"), ("c", "d", "e")]
    again = Recorded(path, fresh, "network")
    assert [again(HybridRule(share=0.3), CANDIDATES, number=number) for number in (1, 3)] == first
    assert fresh.asked == 2
    assert json.loads(path.read_text())["rules"]["1"] == {"b": 1.0, "c": 0.5, "d": pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "must be as Weft wrote it"),
        ('{"rules": {"1": {"a": NaN}}}', "must be as Weft wrote it"),
        ('{"rules": {"1": {"x": 1.0}}}', "rule 1 must have chosen 1 of its modules, but has x"),
        ('{"rules": {"1": {}}}', "must have chosen 1 of its modules, but has none"),
        ('{"rules": {"1": {"a": 1.0, "b": 1.0}}}', "but has a, b"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(text, words, tmp_path):
    path = tmp_path / "chosen.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=words):
        Recorded(path, Counting(), "network")(HybridRule(), CANDIDATES, number=1)


STAGE = """\
  - name: one
    strategy: [{train: hybrid-lora, rank: 1, share: 0.2, batches: 2}]
    length: 3 steps
    batch: 8
    evaluate: 2 steps
    save: 1 steps
"""


def test_a_run_plans_reports_and_resumes_with_what_was_chosen(little, tiny_bert, tmp_path):
    job, folder = (
        little.write_job(tmp_path, tiny_bert, little.recipe_of(STAGE, tasks=["mood"])),
        RunFolder(tmp_path / "run"),
    )
    events, ways = session.train(open_recipe(job), folder, root=tmp_path), ()
    for event in events:
        if isinstance(event, StageStarted):
            ways = event.plan.ways
        if isinstance(event, Saved):
            break
    events.close()
    chosen = list(json.loads(folder.chosen("one").read_text())["rules"]["1"])
    assert len(chosen) == round(0.2 * 13)
    assert any(way.endswith(f"best first: {', '.join(chosen)}") for way in ways)
    foreseen = json.loads(folder.plan.read_text())
    assert "here the largest stand for them" in json.dumps(foreseen)
    # a run that is taken up asks no gradients: what is written down holds, whatever they would say now
    other = [name for name in ("layers.0.attention.query", "layers.1.attention.value", "pooler", "layers.0.ffn.up")
             if name not in chosen][:2]  # fmt: skip
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "run", moved)
    little.resume(tmp_path / "run")
    bundle = load_file(folder.bundle / "delta.safetensors")
    assert {path.rpartition(".")[0] for path in bundle} == set(chosen)
    shutil.rmtree(moved / "stages" / "one" / "checkpoints")
    (moved / "stages" / "one" / "chosen.json").write_text(
        json.dumps({"rules": {"1": dict.fromkeys(other, 1.0) | dict.fromkeys(chosen[2:], 0.5)}})
    )
    little.resume(moved)
    bundle = load_file(moved / "bundle" / "delta.safetensors")
    assert {path.rpartition(".")[0] for path in bundle} == {*other, *chosen[2:]}
    report = json.loads((moved / "report.json").read_text())
    assert any(other[0] in way for way in report["stages"][0]["plan"]["ways"])
