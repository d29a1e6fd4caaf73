"""Parts go to disk and come back bit by bit; what cannot be read is named."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from weft.core.parts import AdapterState, HeadState, Parts
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.errors import ExportError, NameInvalidError
from weft.export.parts import (
    check_links,
    check_tensor,
    load_parts,
    load_tensors,
    read_json,
    read_record,
    save_parts,
    save_tensors,
    write_json,
)
from weft.strategy.site_method import renamed


def site(path: str, raw: str, *shape: int) -> Site:
    return Site(path, SiteKind.LINEAR, raw, (ParamInfo(f"{path}.weight", shape),))


VIEW = ModelView(
    "toy",
    (site("layers.0.ffn.up", "block.0.fc1", 4, 3), site("layers.0.ffn.down", "block.0.fc2", 3, 4)),
    {"": 1},
)


def some_parts() -> Parts:
    generator = torch.Generator().manual_seed(1)
    up = "layers.0.ffn.up"
    options = {up: {"rank": 2, "alpha": 4.0, "dropout": 0.0, "kind": "linear"}}
    factors = {
        f"{up}.lora_A.one": torch.randn(2, 3, generator=generator),
        f"{up}.lora_B.one": torch.randn(4, 2, generator=generator),
    }
    head = HeadState(
        "mood",
        "classification",
        {"labels": ["好", "坏"]},
        {"out.weight": torch.randn(2, 3, generator=generator)},
    )
    return Parts(
        delta={"layers.0.ffn.down.weight": torch.randn(3, 4, generator=generator)},
        adapters=(AdapterState("one", "lora", {"sites": options}, factors),),
        heads={"mood": head, "reply": HeadState("reply", "generation", {}, {})},
    )


def test_parts_come_back_bit_by_bit(tmp_path: Path):
    parts = some_parts()
    save_parts(tmp_path, parts, VIEW, base="toy")
    found = load_parts(tmp_path, VIEW)
    assert torch.equal(found.delta["layers.0.ffn.down.weight"], parts.delta["layers.0.ffn.down.weight"])
    (adapter,) = found.adapters
    assert (adapter.name, adapter.method, adapter.config) == ("one", "lora", parts.adapters[0].config)
    assert all(torch.equal(adapter.tensors[path], value) for path, value in parts.adapters[0].tensors.items())
    assert list(found.heads) == ["mood", "reply"]
    assert found.heads["mood"].config == {"labels": ["好", "坏"]}
    assert torch.equal(found.heads["mood"].tensors["out.weight"], parts.heads["mood"].tensors["out.weight"])
    assert found.heads["reply"].tensors == {}


@pytest.mark.parametrize("parts", [(), ("mood",)])
def test_whose_rows_take_which_part_comes_back(parts: tuple[str, ...], tmp_path: Path):
    own = some_parts()
    routed = replace(own, adapters=(replace(own.adapters[0], tasks=("mood",), parts=parts),))
    save_parts(tmp_path, routed, VIEW, base="base")
    assert read_json(tmp_path / "parts.json")["routes"] == {"mood": ["/".join(("one", *parts))]}
    (adapter,) = load_parts(tmp_path, VIEW).adapters
    assert (adapter.tasks, adapter.parts) == (("mood",), parts)


@pytest.mark.parametrize("route", ["one/../two", "one/", "two/mood", "/one", "one/a/b"])
def test_a_route_that_leads_nowhere_is_refused(route: str, tmp_path: Path):
    save_parts(tmp_path, some_parts(), VIEW, base="base")
    write_json(
        tmp_path / "parts.json", {**read_json(tmp_path / "parts.json"), "routes": {"mood": ["one", route]}}
    )
    with pytest.raises(ExportError, match=r"a name must be 1-64 letters|routes must lead from a head to"):
        load_parts(tmp_path, VIEW)


def test_all_adapters_of_a_task_and_their_stages_come_back(tmp_path: Path):
    own = some_parts()
    (one,) = own.adapters
    two = replace(renamed(one, "two"), tasks=("mood", "reply"), stage="later")
    parts = replace(own, adapters=(replace(one, tasks=("mood",), stage="early"), two))
    save_parts(tmp_path, parts, VIEW, base="base")
    listing = read_json(tmp_path / "parts.json")
    assert listing["routes"] == {"mood": ["one", "two"], "reply": ["two"]}
    found = load_parts(tmp_path, VIEW).adapters
    assert [(a.name, a.tasks, a.stage) for a in found] == [(a.name, a.tasks, a.stage) for a in parts.adapters]
    for wrong in (["one", "one"], "one", [["one"]]):
        write_json(tmp_path / "parts.json", {**listing, "routes": {"mood": wrong}})
        with pytest.raises(ExportError, match=r"routes\.mood.* must be as Weft wrote it"):
            load_parts(tmp_path, VIEW)


def test_empty_parts_are_parts(tmp_path: Path):
    save_parts(tmp_path, Parts(), VIEW, base="toy")
    assert load_parts(tmp_path, VIEW) == Parts()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.json"]


def test_files_are_readable_by_others(tmp_path: Path):
    os.umask(0o022)
    save_parts(tmp_path, some_parts(), VIEW, base="toy")
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_a_name_that_is_a_path_is_not_written(tmp_path: Path):
    parts = Parts(heads={"x": HeadState("../x", "classification", {}, {})})
    with pytest.raises(NameInvalidError):
        save_parts(tmp_path, parts, VIEW, base="toy")


def test_a_view_of_another_model_refuses_the_delta(tmp_path: Path):
    save_parts(tmp_path, some_parts(), VIEW, base="toy")
    other = ModelView("toy", (site("layers.0.ffn.up", "block.0.fc1", 4, 3),), {"": 1})
    with pytest.raises(
        ExportError, match=r"layers\.0\.ffn\.down\.weight must be a parameter of the base model"
    ):
        load_parts(tmp_path, other)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(2, 2), r"must have shape \(2,\), but has \(2, 2\)"),
        (torch.tensor([1.0, float("inf")]), "must hold finite"),
        (torch.tensor([1, 2]), "must hold finite floating-point numbers"),
    ],
)
def test_check_tensor(tensor: torch.Tensor, words: str):
    with pytest.raises(ExportError, match=words):
        check_tensor("x", tensor, (2,), where=Path("f"))
    check_tensor("x", torch.ones(2), (2,), where=Path("f"))


def test_links_within_the_folder_are_no_matter(tmp_path: Path):
    (tmp_path / "a").write_text("")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    check_links(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path.parent)
    with pytest.raises(ExportError, match=r"c: must lie in its folder, but links to"):
        check_links(tmp_path)


def test_tensors_round_trip_detached_and_contiguous(tmp_path: Path):
    value = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    save_tensors(tmp_path / "x.safetensors", {"x": value})
    assert torch.equal(load_tensors(tmp_path / "x.safetensors")["x"], value.detach())
    with pytest.raises(ExportError, match="must be a whole safetensors file"):
        load_tensors(tmp_path / "none.safetensors")


def test_json_is_readable_utf8(tmp_path: Path):
    write_json(tmp_path / "x.json", {"标签": "好"})
    assert "标签" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "x.json") == {"标签": "好"}


@pytest.mark.parametrize("text", ["", "{", "3", '"x"', "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ExportError, match=r"x\.json: must"):
        read_json(tmp_path / "x.json")


class Point(BaseModel):
    x: int
    more: dict[str, Any] = {}


def test_a_record_says_which_value_is_wrong(tmp_path: Path):
    write_json(tmp_path / "x.json", {"x": 1, "other": 2})
    assert read_record(tmp_path / "x.json", Point) == Point(x=1)
    write_json(tmp_path / "x.json", {"x": "one"})
    with pytest.raises(ExportError, match=r"x\.json: x must be as Weft wrote it, but: .*integer"):
        read_record(tmp_path / "x.json", Point)
