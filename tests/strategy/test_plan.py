"""A plan says every parameter's role, reason, rate and decay, from a view alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weft.core.table import Role
from weft.core.view import ParamInfo, Site, SiteKind
from weft.errors import NameInvalidError, SiteError, StrategyError
from weft.recipe.spec import Rule
from weft.strategy.bottleneck import BottleneckRule
from weft.strategy.dora import DoraRule
from weft.strategy.full import FullRule
from weft.strategy.lora import LoraRule
from weft.strategy.named import resolve
from weft.strategy.none import NoneRule
from weft.strategy.plan import CarriedAdapter, plan, planned_view
from weft.strategy.prompt import PromptRule
from weft.strategy.rates import HEAD_ALONE, HEADS
from weft.strategy.registry import METHODS, adapter_method

TASKS = ("sentiment", "entities")


def make(view, *rules, tasks=TASKS, stage_lr=None, adapter="stage1", carried=()):
    return plan(view, rules, tasks=tasks, stage_lr=stage_lr, adapter=adapter, carried=carried)


def carried_from(view, made, role):
    """Return the adapter of one LoRA rule as the stage behind ``made`` finds it, all its options known."""
    known = {site.path: site for site in view.sites}
    options = {one.site: adapter_method("lora").options(known[one.site], one.rule) for one in made.installs}
    name, paths = (
        made.installs[0].adapter,
        [row.path for row in made.table if row.owner.startswith("adapter:")],
    )
    return (CarriedAdapter(name, "lora", role, options, frozenset(paths)),)


def rows(made):
    return {row.path: row for row in made.table}


def test_the_hybrid_of_the_design_page(bert):
    made = make(
        bert,
        NoneRule(sites="layers[0:4]"),
        LoraRule(sites="layers[4:10].attention", rank=8, lr=2e-4),
        FullRule(sites="layers[10:]", lr=2e-5),
    )
    by_path = rows(made)
    assert len(made.installs) == 6 * 4
    assert {install.adapter for install in made.installs} == {"stage1"}
    expected = {
        "layers.3.attention.query.weight": (Role.FROZEN, "rule 1: layers[0:4] -> none", 0.0, False),
        "layers.4.attention.query.weight": (Role.FROZEN, "rule 2: layers[4:10].attention -> lora", 0.0, False),
        "layers.4.attention.query.lora_A.stage1": (
            Role.TRAINED, "rule 2: layers[4:10].attention -> lora", 2e-4, True,
        ),
        "layers.4.ffn.up.weight": (Role.FROZEN, "no rule names it", 0.0, False),
        "layers.11.ffn.up.weight": (Role.TRAINED, "rule 3: layers[10:] -> full", 2e-5, True),
        "layers.11.ffn.up.bias": (Role.TRAINED, "rule 3: layers[10:] -> full", 2e-5, False),
        "layers.11.norm.ffn.weight": (Role.TRAINED, "rule 3: layers[10:] -> full", 2e-5, False),
        "heads.sentiment.out.weight": (Role.TRAINED, "head of a task of this stage", HEADS.value, True),
    }  # fmt: skip
    for path, (role, why, lr, decay) in expected.items():
        row = by_path[path]
        assert (row.role, row.why, row.lr, row.decay) == (role, why, lr, decay), path
    assert by_path["layers.4.attention.query.lora_A.stage1"].shape == (8, 8)
    num_full = 2 * (4 * 72 + 144 + 136 + 2 * 16)
    num_heads = 3 * 8 + 3 + 5 * 8 + 5
    assert made.table.num_trained() == 24 * 2 * 8 * 8 + num_full + num_heads


def test_every_parameter_has_one_row_in_view_order(llama):
    made = make(llama, FullRule(), tasks=())
    assert [row.path for row in made.table] == [
        info.path for site in llama.sites for info in site.params if not info.tied_to
    ]
    assert made.table.num_values() == 50 * 8 + 4 * (2 * 64 + 2 * 32 + 3 * 128 + 16) + 8
    assert {row.owner for row in made.table} == {"trunk"}


def test_owners_say_who_brought_a_parameter_in(bert):
    made = make(bert, LoraRule(sites="layers[0].ffn"))
    owners = [row.owner for row in made.table]
    assert {owner: owners.count(owner) for owner in set(owners)} == {
        "trunk": 198, "adapter:stage1": 4, "head:sentiment": 2, "head:entities": 2,
    }  # fmt: skip


def test_the_last_rule_that_names_a_parameter_decides(bert):
    by_path = rows(
        make(
            bert,
            FullRule(sites="layers[0:2]"),
            NoneRule(sites="layers[1]"),
            FullRule(sites="layers[1].ffn.up"),
        )
    )
    assert by_path["layers.0.ffn.up.weight"].role is Role.TRAINED
    assert by_path["layers.1.ffn.down.weight"].why == "rule 2: layers[1] -> none"
    assert by_path["layers.1.ffn.up.weight"].why == "rule 3: layers[1].ffn.up -> full"


def test_a_later_full_rule_takes_a_lora_away(bert):
    made = make(bert, LoraRule(), FullRule(sites="top 2"))
    assert len(made.installs) == 10 * 6 + 1
    assert not any(path.startswith("layers.11.") and "lora" in path for path in rows(made))
    assert (
        make(bert, FullRule(), LoraRule(sites="top 1.attention")).installs[0].site
        == "layers.11.attention.query"
    )


def test_a_lora_keeps_its_whole_site_frozen_unless_told_later(bert):
    path = "layers.0.attention.query.bias"
    assert rows(make(bert, FullRule(sites="bias"), LoraRule()))[path].role is Role.FROZEN
    with_bias = make(bert, LoraRule(), FullRule(sites="bias"))
    assert rows(with_bias)[path].role is Role.TRAINED
    assert len(with_bias.installs) == 73


def test_a_later_lora_replaces_an_earlier_one(bert):
    made = make(bert, LoraRule(rank=2), LoraRule(sites="ffn", rank=4, alpha=4))
    assert len(made.installs) == 73
    assert rows(made)["layers.0.ffn.up.lora_A.stage1"].shape == (4, 8)
    assert rows(made)["layers.0.attention.key.lora_A.stage1"].shape == (2, 8)
    assert [install.site for install in made.installs][:7] == [
        *(f"layers.0.attention.{part}" for part in ("query", "key", "value", "output")),
        "layers.0.ffn.up",
        "layers.0.ffn.down",
        "layers.1.attention.query",
    ]


@pytest.mark.parametrize(
    ("rules", "stage_lr", "trunk_lr", "head_lr"),
    [
        (resolve("full"), None, 5e-5, HEADS.value),
        (resolve("lora"), None, 5e-4, HEADS.value),
        (resolve("bitfit"), None, 1e-3, HEADS.value),
        (resolve("prompt"), None, 3e-2, 3e-2),
        ((PromptRule(lr=1e-3),), None, 1e-3, HEADS.value),
        ((PromptRule(lr=0.1),), None, 0.1, 0.1),
        ((LoraRule(), FullRule(sites="top 1", lr=5e-4)), None, 5e-4, HEADS.value),
        (resolve("head"), None, None, HEAD_ALONE.value),
        (resolve("full"), 3e-5, 3e-5, 3e-5),
        (resolve("head"), 3e-5, None, 3e-5),
        ((FullRule(lr=1e-5),), None, 1e-5, HEADS.value),
        ((FullRule(lr=1e-5),), 3e-5, 1e-5, 3e-5),
        ((FullRule(sites="heads", lr=1e-2),), 3e-5, None, 1e-2),
        ((FullRule(sites="heads"),), None, None, HEAD_ALONE.value),
        ((FullRule(), FullRule(sites="heads")), None, 5e-5, HEADS.value),
    ],
)
def test_rates(bert, rules, stage_lr, trunk_lr, head_lr):
    table = make(bert, *rules, stage_lr=stage_lr).table
    assert {row.lr for row in table.trained() if row.owner.startswith("head")} == {head_lr}
    expected = set() if trunk_lr is None else {trunk_lr}
    assert {row.lr for row in table.trained() if not row.owner.startswith("head")} == expected


@pytest.mark.parametrize(
    ("rules", "width", "trunk_lr", "is_told"),
    [
        (resolve("full"), 384, 1e-4, True),
        (resolve("full"), 3072, 1.25e-5, True),
        (resolve("lora"), 384, 1e-3, True),
        (resolve("pfeiffer"), 3072, 1.25e-4, True),
        (resolve("ia3"), 3072, 5e-3, False),  # vectors, as the next two
        (resolve("bitfit"), 384, 1e-3, False),
        (resolve("prompt"), 384, 3e-2, False),
        ((FullRule(lr=1e-5),), 384, 1e-5, False),
    ],
)
def test_rates_of_matrices_fall_with_the_width(bert, rules, width, trunk_lr, is_told):
    made = make(replace(bert, width=width), *rules)
    rates = {row.lr for row in made.table.trained() if not row.owner.startswith("head")}
    assert list(rates) == pytest.approx([trunk_lr])
    where = "widths up to 384" if width == 384 else f"a width of {width}"
    assert any(f"times {768 / width:g} for {where}" in line for line in made.defaults) is is_told


@pytest.mark.parametrize("name", ["layer-decay", "gradual", "lisa"])
def test_what_is_said_by_layer_needs_layers(unnamed, name):
    with pytest.raises(
        StrategyError, match=r"rule 1: all -> \w+: must be for a model whose layers can be told"
    ):
        make(unnamed, *resolve(name))
    with pytest.raises(StrategyError, match="rule 2: "):
        make(unnamed, FullRule(), LoraRule(layer_decay=0.9))
    assert make(unnamed, *resolve("lp-ft")).table.trained()


def test_what_two_stacks_share_lies_below_or_above_both(t5):
    found = rows(make(t5, FullRule(layer_decay=0.5, lr=1e-3), tasks=()))
    assert t5.num_layers == {"encoder.": 4, "decoder.": 2}
    assert found["decoder.layers.1.ffn.up.weight"].lr == pytest.approx(1e-3)
    assert found["encoder.layers.0.ffn.up.weight"].lr == pytest.approx(0.125e-3)
    assert found["embeddings.word.weight"].lr == pytest.approx(0.0625e-3)
    head = Site("lm_head", SiteKind.LINEAR, "lm_head", (ParamInfo("lm_head.weight", (50, 8)),))
    joins = rows(make(replace(t5, sites=(*t5.sites, head)), FullRule(gradual=0.8), tasks=()))
    assert joins["lm_head.weight"].since == pytest.approx(0.8 / 5)
    assert joins["encoder.layers.3.ffn.up.weight"].since == pytest.approx(0.8 / 5)
    assert joins["embeddings.word.weight"].since == pytest.approx(0.8)


@pytest.mark.parametrize(("size", "lr"), [(48, 5e-4), (64, 5e-4), (256, 2.5e-4), (1024, 1.25e-4)])
def test_wide_bottlenecks_learn_more_slowly(bert, size, lr):
    table = make(bert, BottleneckRule(size=size), tasks=()).table
    assert [row.lr for row in table.trained()] == pytest.approx([lr] * len(table.trained()))
    named = make(bert, BottleneckRule(size=size, lr=1e-3), tasks=()).table
    assert {row.lr for row in named.trained()} == {1e-3}


@pytest.mark.parametrize("kind", [LoraRule, DoraRule])
def test_factors_of_two_rates_move_on_the_whole_as_those_of_one(bert, kind):
    def rates(**options):
        table = make(bert, kind(sites="layers[0].ffn.up", **options), tasks=()).table
        return {row.path.split(".")[-2].rpartition("_")[2]: row.lr for row in table.trained()}

    one, two, named = rates(), rates(lr_ratio=16), rates(lr_ratio=16, lr=1e-5)
    assert (one["A"], one["B"]) == (5e-4, 5e-4)
    assert (two["A"], two["B"]) == pytest.approx((1.25e-4, 2e-3))
    assert (named["A"], named["B"]) == pytest.approx((1e-5, 1.6e-4))


def test_decay_is_for_matrices_that_are_neither_norms_nor_embeddings(bert, gpt2):
    decayed = [row for row in make(bert, FullRule()).table if row.decay]
    assert len(decayed) == 12 * 6 + 1 + 2
    assert all(len(row.shape) == 2 and "embeddings" not in row.path for row in decayed)
    lora = make(gpt2, LoraRule(sites="layers[0].attention.qkv"), tasks=()).table
    assert [(row.shape, row.decay) for row in lora.trained()] == [((8, 8), True), ((24, 8), True)]


def test_heads_of_other_tasks_are_frozen(bert):
    by_path = rows(make(bert, FullRule(), FullRule(sites="heads"), tasks=["entities"]))
    assert by_path["heads.entities.out.weight"].why == "rule 2: heads -> full"
    row = by_path["heads.sentiment.out.weight"]
    assert (row.role, row.why) == (Role.FROZEN, "head of a task that this stage does not train")
    assert (
        rows(make(bert, FullRule(), NoneRule(sites="heads.entities")))["heads.entities.out.bias"].role
        is Role.FROZEN
    )


def test_a_head_with_a_like_name_is_another_head(bert):
    table = make(bert, FullRule(sites="bias"), tasks=["senti"]).table
    assert not any(row.owner.startswith("head") for row in table.trained())


def test_tied_weights_have_one_row_and_no_lora(llama):
    made = make(llama, LoraRule(sites="all"), tasks=())
    assert len(made.installs) == 4 * 7
    assert rows(made)["embeddings.word.weight"].role is Role.FROZEN
    assert "lm_head.weight" not in rows(made)
    assert (
        rows(make(llama, FullRule(sites="lm_head"), tasks=()))["embeddings.word.weight"].role is Role.TRAINED
    )
    with pytest.raises(StrategyError, match=r"rule 1: lm_head -> lora: .*tied.*Choose other sites"):
        make(llama, LoraRule(sites="lm_head"), tasks=())


def test_transposed_weights_have_factors_of_the_right_width(gpt2):
    by_path = rows(make(gpt2, LoraRule(rank=2)))
    assert by_path["layers.1.ffn.up.lora_A.stage1"].shape == (2, 8)
    assert by_path["layers.1.ffn.up.lora_B.stage1"].shape == (32, 2)
    assert by_path["layers.1.attention.qkv.lora_B.stage1"].shape == (24, 2)


@pytest.mark.parametrize("sites", ["norm", "heads", "heads.sentiment", "final_norm"])
def test_lora_where_it_cannot_act_is_refused(gpt2, sites):
    with pytest.raises(
        StrategyError, match=rf"rule 1: {sites} -> lora: must name conv1d or embedding or linear sites"
    ):
        make(gpt2, LoraRule(sites=sites))


@pytest.mark.parametrize(
    ("rules", "tasks", "error", "said"),
    [
        ([NoneRule()], (), StrategyError, r"something must be trained, but \[all -> none\] leaves nothing"),
        ([NoneRule(), NoneRule(sites="heads")], TASKS, StrategyError, "leaves nothing"),
        ([FullRule(sites="heads.sentiment")], ("entities",), StrategyError, "only heads of other tasks"),
        ([FullRule(sites="nowhere")], TASKS, SiteError, "matches nothing"),
        ([LoraRule(sites="bias")], TASKS, SiteError, "whole sites"),
        ([Rule(train="full")], TASKS, StrategyError, "must be a FullRule, but is a Rule"),
        ([Rule(train="nora")], TASKS, StrategyError, "must be a method"),
    ],
)
def test_what_cannot_be_is_refused(bert, rules, tasks, error, said):
    with pytest.raises(error, match=said):
        make(bert, *rules, tasks=tasks)


def test_adapter_names_are_plain(bert):
    with pytest.raises(NameInvalidError):
        make(bert, LoraRule(), adapter="../x")


def test_a_chain_of_stages_is_planned_without_weights(bert):
    first = make(bert, LoraRule(sites="layers[0].ffn", rank=2), adapter="one")
    view = planned_view(bert, first.installs)
    carried = carried_from(bert, first, Role.FROZEN)
    assert [one.name for one in carried] == ["one"]
    second = make(view, LoraRule(sites="layers[0]", rank=4), adapter="two", carried=carried)
    by_path = rows(second)
    assert by_path["layers.0.ffn.up.lora_A.one"].why == "carried adapter, stays as it is"
    assert by_path["layers.0.ffn.up.lora_A.two"].shape == (4, 8)
    at_site = [path for path in by_path if path.startswith("layers.0.ffn.up.")]
    assert [path.removeprefix("layers.0.ffn.up.") for path in at_site] == [
        "weight", "bias", "lora_A.one", "lora_A.two", "lora_B.one", "lora_B.two",
    ]  # fmt: skip
    assert {row.owner for row in second.table.trained()} == {"adapter:two", "head:sentiment", "head:entities"}


def test_full_training_leaves_a_stacked_adapter_alone(bert):
    first = make(bert, LoraRule(sites="layers[0].ffn"), adapter="one")
    view, carried = planned_view(bert, first.installs), carried_from(bert, first, Role.FROZEN)
    by_path = rows(make(view, FullRule(), adapter="two", carried=carried))
    assert by_path["layers.0.ffn.up.lora_A.one"].role is Role.FROZEN
    assert by_path["layers.0.ffn.up.weight"].role is Role.TRAINED
    with pytest.raises(StrategyError, match="names only heads of other tasks, adapters"):
        make(view, FullRule(sites="layers.0.ffn.up.lora_A.one"), adapter="two", carried=carried)


def test_a_carried_adapter_goes_on(bert):
    first = make(bert, LoraRule(sites="layers[0:2].ffn", rank=2), adapter="one")
    view, carried = planned_view(bert, first.installs), carried_from(bert, first, Role.TRAINED)

    alone = rows(make(view, *resolve("head"), tasks=TASKS, adapter="two", carried=carried))
    assert alone["layers.0.ffn.up.lora_A.one"].role is Role.FROZEN  # head: all -> none says so

    beside = rows(make(view, FullRule(sites="norm"), adapter="two", carried=carried))
    row = beside["layers.0.ffn.up.lora_A.one"]
    assert (row.role, row.lr, row.why) == (Role.TRAINED, 5e-4, "carried adapter, goes on")

    again = make(view, LoraRule(sites="layers[0:3].ffn", rank=2, lr=1e-3), adapter="two", carried=carried)
    assert [install.site for install in again.installs] == ["layers.2.ffn.up", "layers.2.ffn.down"]
    row = rows(again)["layers.0.ffn.up.lora_A.one"]
    assert (row.role, row.lr, row.why) == (Role.TRAINED, 1e-3, "rule 1: layers[0:3].ffn -> lora")
    assert "layers.0.ffn.up.lora_A.two" not in rows(again)


def test_what_goes_on_has_the_rates_of_the_rule_that_names_it(bert):
    first = make(bert, LoraRule(sites="layers[0:2].ffn", rank=2), adapter="one")
    view, carried = planned_view(bert, first.installs), carried_from(bert, first, Role.TRAINED)
    rule = LoraRule(sites="layers[0:3].ffn", rank=2, lr=1e-3, lr_ratio=16, layer_decay=0.5)
    found = rows(make(view, rule, adapter="two", carried=carried))
    for layer in range(3):  # the third is new
        at, below = f"layers.{layer}.ffn.up", 0.5 ** (11 - layer)
        assert found[f"{at}.lora_A.one"].lr == pytest.approx(1e-3 * below)
        assert found[f"{at}.lora_B.one"].lr == pytest.approx(16e-3 * below)
    made = make(view, LoraRule(sites="layers[0:2].ffn", rank=2, lr_ratio=16), adapter="two", carried=carried)
    factors = [rows(made)[f"layers.0.ffn.up.lora_{factor}.one"].lr for factor in "AB"]
    assert factors == pytest.approx([1.25e-4, 2e-3])
    assert "0.0005 times 0.25 for these options" in made.defaults[0]


def test_what_goes_on_may_grow_to_more_sites_under_its_name(bert):
    first = make(bert, LoraRule(sites="layers[0].ffn", rank=2), adapter="one")
    view, carried = planned_view(bert, first.installs), carried_from(bert, first, Role.TRAINED)
    grown = make(view, LoraRule(sites="layers[0:2].ffn", rank=2), adapter="one", carried=carried)
    assert [install.site for install in grown.installs] == ["layers.1.ffn.up", "layers.1.ffn.down"]
    owned = [row for row in grown.table if row.owner == "adapter:one"]
    assert len(owned) == 8
    assert all(row.role is Role.TRAINED for row in owned)


def test_what_goes_on_keeps_its_options(bert):
    first = make(bert, LoraRule(sites="layers[0].ffn", rank=2), adapter="one")
    view, carried = planned_view(bert, first.installs), carried_from(bert, first, Role.TRAINED)
    for rule in (LoraRule(rank=4), LoraRule(rank=2, alpha=7), LoraRule(rank=2, dropout=0.5)):
        with pytest.raises(StrategyError, match="must keep the options of adapter 'one'"):
            make(view, rule, adapter="two", carried=carried)


def test_a_taken_name_and_an_absent_adapter_are_refused(bert):
    first = make(bert, LoraRule(sites="layers[0].ffn"), adapter="one")
    view, carried = planned_view(bert, first.installs), carried_from(bert, first, Role.FROZEN)
    with pytest.raises(StrategyError, match="'one' is carried in"):
        make(view, LoraRule(), adapter="one", carried=carried)
    with pytest.raises(StrategyError, match="must be in the network"):
        make(bert, FullRule(), adapter="two", carried=carried)


def test_planning_is_pure(bert):
    first, second = (make(bert, LoraRule(), FullRule(sites="norm")) for _ in range(2))
    assert first == second


def defaults_of(view, rules, *, lr=None):
    return plan(view, rules, tasks=("sentiment",), stage_lr=lr, adapter="one").defaults


def test_rates_that_nobody_named_say_where_they_come_from(bert):
    lora, heads = defaults_of(bert, [LoraRule()])
    assert lora.startswith("lora at a rate of 0.0005 unless lr says otherwise: every linear layer, ten times")
    assert heads.startswith("heads at a rate of 0.005 unless lr says otherwise: far above the trunk's")
    assert defaults_of(bert, [LoraRule()], lr=1e-3) == ()
    assert [line.split()[0] for line in defaults_of(bert, [LoraRule(lr=1e-3)])] == ["heads"]
    vectors, _ = defaults_of(bert, [FullRule(sites="bias")])
    assert vectors.startswith("full at a rate of 0.001")
    assert "only biases and norms move" in vectors
    (alone,) = defaults_of(bert, [NoneRule(sites="all")])
    assert alone.startswith("heads at a rate of 0.02")


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_every_method_says_where_its_rate_comes_from(name):
    advice = METHODS[name].advice
    assert advice
    assert not advice.endswith(".")
