"""Adapters that were trained elsewhere are where stages without a parent start: merged, trained further, or under new ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from weft.build.estimate import Machine, stage_plans
from weft.core.example import Purpose
from weft.core.network import Inference
from weft.errors import ModelError, RecipeError
from weft.task.batching import make_batch

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT asks under an old name
CPU = torch.device("cpu")
TEXTS = ["a happy film", "john eats in london", "very bad"]
KINDS = {
    "plain": (AutoModel, None),
    "masked": (AutoModelForMaskedLM, None),
    "judging": (AutoModelForSequenceClassification, "SEQ_CLS"),
}
CARRIES = ("merge", "continue", "stack")


@pytest.fixture(scope="module")
def given(tiny_bert, tmp_path_factory):
    """Folders of PEFT's: on the bare model, and on ones with a head, whose modules have a prefix; one with its head."""
    home = tmp_path_factory.mktemp("given")
    torch.manual_seed(5)
    for name, (kind, task) in KINDS.items():
        config = LoraConfig(
            task_type=task, r=3, lora_alpha=6, target_modules=["query", "value"], init_lora_weights=False
        )
        model = get_peft_model(kind.from_pretrained(tiny_bert), config)
        model.save_pretrained(home / name)
    return home


@pytest.fixture
def opened(open_kit, given):
    """Return a function that opens stages on the model with adapters of these folders."""

    def opener(*stages, names=("plain",), **adapters):
        return open_kit(list(stages), adapters={name: str(given / name) for name in names} | adapters)

    return opener


def logits(kit, entered):
    task = kit.data.tasks["mood"].task
    rows = task.encode([task.ask(text, None) for text in TEXTS], kit.tokenizer, Purpose.ANSWER)
    batch = make_batch([("mood", row) for row in rows], {"mood": task}, pad=kit.tokenizer.pad, packed=True)
    with torch.inference_mode():
        return Inference(entered.network.eval(), batch).outputs("mood").float()


@pytest.mark.parametrize("name", KINDS)
def test_what_is_merged_are_pefts_merged_weights(opened, given, tiny_bert, name):
    entered = opened({"name": "one"}, names=[name]).enter("one")
    whole = PeftModel.from_pretrained(
        KINDS[name][0].from_pretrained(tiny_bert), given / name
    ).merge_and_unload()
    theirs = getattr(whole, "bert", whole).state_dict()
    ours = dict(entered.sites.parameters())
    sites = {site.path: site.raw for site in entered.sites.view.sites}
    changed = sorted(entered.changed)
    assert changed == sorted(
        f"layers.{i}.attention.{part}.weight" for i in (0, 1) for part in ("query", "value")
    )
    for path in changed:
        site, _, weight = path.rpartition(".")
        torch.testing.assert_close(ours[path].detach(), theirs[f"{sites[site]}.{weight}"], rtol=0, atol=1e-6)


def test_the_function_is_the_same_however_it_is_carried(opened, open_kit):
    answers = {
        carry: logits(
            kit := opened({"name": "one", "strategy": "norm", "carry": {"trunk": carry}}), kit.enter("one")
        )
        for carry in CARRIES
    }
    for carry in CARRIES:
        torch.testing.assert_close(answers[carry], answers["merge"], rtol=0, atol=1e-6)
    bare = open_kit([{"name": "one", "strategy": "norm"}])
    assert (logits(bare, bare.enter("one")) - answers["merge"]).abs().max() > 1e-4


def test_what_is_trained_and_handed_on_follows_from_the_carry(opened):
    handed, trained = {}, {}
    for carry in CARRIES:
        kit = opened({"name": "one", "strategy": "norm", "carry": {"trunk": carry}})
        ((_, state),) = kit.rehearse()
        handed[carry] = [one.name for one in state.leave().adapters]
        owners = {row.owner for row in state.table.trained()}
        trained[carry] = sorted(owner for owner in owners if owner.startswith("adapter"))
    assert handed == {"merge": [], "continue": ["plain"], "stack": ["plain"]}
    assert trained == {"merge": [], "continue": ["adapter:plain"], "stack": []}


def test_later_stages_go_on_from_them_and_branches_share_them(opened):
    kit = opened(
        {"name": "one", "strategy": "lora", "carry": {"trunk": "stack"}},
        {"name": "two", "strategy": "full"},
        {
            "name": "other",
            "parent": "base",
            "tasks": "names",
            "strategy": "norm",
            "carry": {"trunk": "continue"},
        },
    )
    with pytest.raises(RecipeError, match="branches that end a run must have one trunk"):
        kit.rehearse()
    kit = opened(
        {"name": "moods", "tasks": "mood", "strategy": "lora", "carry": {"trunk": "stack"}},
        {"name": "tags", "parent": "base", "tasks": "names", "strategy": "lora", "carry": {"trunk": "stack"}},
    )
    assert [stage.name for stage, _ in kit.rehearse()] == ["moods", "tags"]


def test_several_lie_on_each_other_in_the_recipes_order(opened):
    kit = opened({"name": "one", "strategy": "head", "carry": {"trunk": "stack"}}, names=("masked", "plain"))
    ((_, state),) = kit.rehearse()
    assert [one.name for one in state.leave().adapters] == ["masked", "plain"]
    merged = opened({"name": "one", "strategy": "head"}, names=("masked", "plain"))
    torch.testing.assert_close(
        logits(kit, kit.enter("one")), logits(merged, merged.enter("one")), rtol=1e-5, atol=1e-5
    )


def test_the_plan_says_what_becomes_of_them(opened, open_kit):
    stages = [
        {"name": "one", "strategy": "lora", "carry": {"trunk": "stack"}},
        {"name": "two", "strategy": "lora"},
    ]
    kit = opened(*stages)
    machine = Machine(1e9, torch.float32, 1 << 33)
    one, two = stage_plans(kit.recipe, kit.rehearse(), kit.data, machine)
    assert one.ways[0] == "on the base model: plain, frozen (carry.trunk: stack)"
    assert not any("plain" in way for way in two.ways)
    assert one.carry == {"trunk": "stack"}
    assert two.carry == {"trunk": "merge", "heads": "keep", "optimizer": "fresh"}
    bare = open_kit(stages[1:])
    (alone,) = stage_plans(bare.recipe, bare.rehearse(), bare.data, machine)
    assert alone.carry == {}


def test_their_names_are_the_recipes_and_their_values_part_of_the_digest(opened, given, open_kit):
    kit = opened({"name": "one"}, names=(), sft=str(given / "plain"))
    assert [one.name for one in kit.base.adapters] == ["sft"]
    assert all(".sft" in path for path in kit.base.adapters[0].tensors)
    other = opened({"name": "one"}, names=(), sft=str(given / "masked"))
    bare = open_kit([{"name": "one"}])
    assert len({kit.base.digest, other.base.digest, bare.base.digest}) == 3
    assert bare.base.digest == bare.base.folder.digest == kit.base.folder.digest


def test_values_of_any_type_have_a_digest(opened):
    base = opened({"name": "one"}).base
    digests = set()
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        (adapter,) = base.adapters
        tensors = {path: tensor.to(dtype) for path, tensor in adapter.tensors.items()}
        digests.add(replace(base, adapters=(replace(adapter, tensors=tensors),)).digest)
    assert len(digests) == 3


@pytest.mark.parametrize("value", [5, "classifier", [["classifier"]], ["classifier", "encoder"]])
def test_modules_that_are_no_heads_are_refused(opened, given, tmp_path, value):
    folder = tmp_path / "odd"
    shutil.copytree(given / "judging", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": value}))
    with pytest.raises(ModelError, match=r"model\.adapters\.sft: .*modules_to_save"):
        opened({"name": "one"}, names=(), sft=str(folder))


def test_what_is_no_adapter_of_this_model_is_refused(opened, given, tmp_path, tiny_bert):
    with pytest.raises(
        ModelError, match=r"model\.adapters\.sft: must be a folder that holds an adapter, but no is none"
    ):
        opened({"name": "one"}, names=(), sft="no")
    with pytest.raises(
        ModelError, match=r"model\.adapters\.sft: .*adapter_config\.json.*must be a JSON file"
    ):
        opened({"name": "one"}, names=(), sft=str(tmp_path))
    config = LoraConfig(target_modules=["query"], modules_to_save=["key"])
    get_peft_model(AutoModel.from_pretrained(tiny_bert), config).save_pretrained(tmp_path / "more")
    with pytest.raises(ModelError, match=r"model\.adapters\.sft: .*modules_to_save"):
        opened({"name": "one"}, names=(), sft=str(tmp_path / "more"))
    with pytest.raises(RecipeError, match="plain"):
        opened({"name": "plain", "strategy": "lora", "carry": {"trunk": "stack"}}).rehearse()
