"""Virtual keys in encoder-decoders: what stock models give for tokens in front whose keys and values are learnt ones."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.model import test_virtual as virtual
from tests.model.test_encoder_decoder import AUTO, KINDS, batch_of, stock_of
from torch import nn

from weft.core.decoding import Decoding
from weft.core.layout import Layout
from weft.core.routing import NONE, Routing, routed
from weft.errors import ModelError
from weft.model.decoder import reply_start
from weft.recipe.spec import Activations
from weft.strategy.bottleneck import BottleneckRule
from weft.strategy.gated_lora import GatedLoraRule
from weft.strategy.prefix import PrefixRule
from weft.strategy.prompt import PromptRule

P, DUMMY = 3, 7
PREFIX, PROMPT = PrefixRule(tokens=P), PromptRule(tokens=2)
GATED, PROJECTED = PrefixRule(tokens=2, gate=True), PrefixRule(tokens=1, projection=5)
PLACES = ("encoder.self_attention", "decoder.self_attention", "decoder.cross_attention")
ALL = [*KINDS, "blenderbot", "plbart"]


Model = partial(virtual.Model, lm=True)


@pytest.fixture
def folder_of(saved):
    return lambda kind: saved(kind, AUTO)


def states(features):
    """Return the states of all tokens of rows, and of replies."""
    return torch.cat([features.flat_TD(), features.decoder.flat_TD()])


def parts(stock, place):
    """Return the stock modules that make keys and values there, layer by layer."""
    stack = stock.get_encoder() if place.startswith("encoder") else stock.get_decoder()
    crossing = "EncDecAttention" if hasattr(stack, "block") else "encoder_attn"
    own = "SelfAttention" if hasattr(stack, "block") else "self_attn"
    wanted = crossing if "cross" in place else own
    found = [one for name, one in stack.named_modules() if name.endswith(f".{wanted}")]
    names = ("k", "v") if hasattr(stack, "block") else ("k_proj", "v_proj")
    return [tuple(getattr(one, name) for name in names) for one in found]


def put_keys(stock, model, place, name="x"):
    """Let the first tokens there have the keys and values of ``model``."""
    for layer, pair in enumerate(parts(stock, place)):
        at = f"{place.replace('self_', '').partition('.')[0]}.layers.{layer}.{place.partition('.')[2].replace('self_', '')}"
        for side, module in zip(("key", "value"), pair, strict=True):
            table_PW = getattr(model.sites.module(f"{at}.{side}"), f"{side}_PW")(name)

            def learnt(_module, _args, out, table_PW=table_PW):
                return torch.cat([table_PW.expand(len(out), -1, -1), out[:, len(table_PW) :]], dim=1)

            module.register_forward_hook(learnt)


def reference(stock, tokens, reply, places, *, count=P):
    """Return a row's states and its reply's where ``count`` tokens stand in front at ``places``."""
    in_front = {place: [DUMMY] * count if place in places else [] for place in PLACES}
    encoder, decoder, crossing = (in_front[place] for place in PLACES)
    rows = torch.tensor([[*encoder, *tokens]])
    states_1LD = stock.get_encoder()(input_ids=rows).last_hidden_state[:, len(encoder) :]
    seen_1LD = torch.cat([states_1LD.new_zeros(1, len(crossing), states_1LD.shape[2]), states_1LD], dim=1)
    written = stock.get_decoder()(
        input_ids=torch.tensor([[*decoder, *reply]]), encoder_hidden_states=seen_1LD, use_cache=False
    )
    return torch.cat([states_1LD[0], written.last_hidden_state[0, len(decoder) :]])


def single(batch, reply):
    """Return a batch of one reply and the row that it replies to."""
    row = batch.replies.rows[reply]
    tokens = batch.tokens[row, : batch.layout.lengths_B[row]]
    said = batch.replies.tokens_RL[reply, : batch.replies.layout.lengths_B[reply]]
    replies = replace(batch.replies, tokens_RL=said[None], layout=Layout.padded([len(said)]), rows=(0,))
    return replace(
        batch, tokens=tokens[None], layout=Layout.padded([len(tokens)]), ids=("x",), replies=replies
    )


FORMS = [
    *((kind, PLACES) for kind in ALL),
    *((kind, (place,)) for kind in ("t5", "umt5", "bart") for place in PLACES),
]


@pytest.mark.parametrize(("kind", "places"), FORMS)
def test_keys_are_those_of_tokens_in_front(folder_of, kind, places):
    """Positions too: looked up from behind them, and the bias by distance as far as they stand."""
    folder = folder_of(kind)
    model = Model(folder, x=PrefixRule(tokens=P, sites=", ".join(places)))
    stock, one = stock_of(folder), single(batch_of(), 2)
    stock.requires_grad_(requires_grad=False)
    for place in places:
        put_keys(stock, model, place)
    found = states(model.trunk(one))
    expected = reference(stock, one.tokens[0].tolist(), one.replies.tokens_RL[0].tolist(), places)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights, trained = (
        torch.randn(found.shape, generator=torch.Generator().manual_seed(2)),
        model.trained("x"),
    )
    own, theirs = (
        torch.autograd.grad((out * weights).sum(), list(trained.values())) for out in (found, expected)
    )
    for path, ours, other in zip(trained, own, theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5, msg=lambda m, p=path: f"{p}: {m}")
        assert other.abs().max() > 0
    assert len(trained) == 2 * 2 * len(places)


def test_a_bias_made_in_the_first_layer_fits_layers_with_other_keys(folder_of):
    """T5 makes its bias once: here no layer has as many keys as the other, nor as the pass has positions."""
    rules = {
        "x": PrefixRule(tokens=4, sites="decoder.layers[1].self_attention"),
        "y": PrefixRule(tokens=1, sites="decoder.layers[0].self_attention"),
    }
    model, seen = Model(folder_of("t5"), **rules), {}
    layers = len(list(model.trunk.model.get_submodule("decoder.block").children()))
    path = "decoder.block.{}.layer.0.SelfAttention"
    attentions = [model.trunk.model.get_submodule(path.format(number)) for number in range(layers)]
    for number, attention in enumerate(attentions):
        attention.register_forward_hook(lambda _m, args, out, n=number: seen.update({n: (args[0], out[0])}))
    one = single(batch_of(), 2)
    with torch.no_grad():
        model.trunk(one)
        length = one.replies.tokens_RL.shape[1]
        for number, (attention, name) in enumerate(zip(attentions, "yx", strict=True)):
            count = rules[name].tokens
            states_LD, out_LD = (part[0] for part in seen[number])
            site = f"decoder.layers.{number}.attention"
            tables = [
                getattr(model.sites.module(f"{site}.{side}"), f"{side}_PW")(name) for side in ("key", "value")
            ]
            q, k, v = (getattr(attention, part)(states_LD) for part in "qkv")
            k, v = (
                torch.cat([table, own]).unflatten(1, (2, 8))
                for table, own in zip(tables, (k, v), strict=True)
            )
            bias = attentions[0].compute_bias(length, length + count, past_seen_tokens=count)[0]
            scores = torch.einsum("lhe,she->hls", q.unflatten(1, (2, 8)), k) + bias
            later = torch.ones(length, length + count).triu(count + 1).bool()
            weights = scores.masked_fill(later, -torch.inf).softmax(-1)
            expected = attention.o(torch.einsum("hls,she->lhe", weights, v).flatten(1))
            torch.testing.assert_close(out_LD, expected, rtol=1e-5, atol=1e-5)


MIXES = [
    *((kind, {"x": PREFIX}) for kind in ALL),
    *((kind, {"x": PROMPT}) for kind in ("t5", "bart")),
    *((kind, {"x": GATED}) for kind in ("t5", "bart")),
    *((kind, {"x": PROMPT, "y": PREFIX, "z": GATED, "w": PROJECTED}) for kind in ("t5", "m2m_100")),
]


@pytest.mark.parametrize(("kind", "rules"), MIXES)
def test_padding_packing_and_company_change_nothing(folder_of, kind, rules):
    folder = folder_of(kind)
    model, batch = Model(folder, **rules), batch_of()
    with torch.no_grad():
        together, flat = model.trunk(batch), model.trunk(batch_of(packed=True))
        base = states(Model(folder).trunk(batch))
        for reply, row in enumerate(batch.replies.rows):
            alone = model.trunk(single(batch, reply))
            own = together.flat_TD().split(batch.layout.lengths_B.tolist())[row]
            said = together.decoder.flat_TD().split(batch.replies.layout.lengths_B.tolist())[reply]
            torch.testing.assert_close(own, alone.flat_TD(), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(said, alone.decoder.flat_TD(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states(flat), states(together), rtol=1e-5, atol=1e-5)
    count = int(batch.layout.lengths_B.sum())
    for moved in (states(together) - base).split([count, len(base) - count]):
        assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_closed_gate_changes_nothing_and_takes_no_position(folder_of, kind):
    model = Model(folder_of(kind), x=GATED)
    for path, parameter in model.trained("x").items():
        if ".prefix_gate." in path:
            nn.init.zeros_(parameter)
    with torch.no_grad():
        found, base = states(model.trunk(batch_of())), states(Model(folder_of(kind)).trunk(batch_of()))
    torch.testing.assert_close(found, base, rtol=1e-5, atol=1e-6)
    assert model.trunk.num_virtual(()) == 0


@pytest.mark.parametrize("kind", ["t5", "bart", "m2m_100"])
def test_each_row_and_its_replies_have_their_own(folder_of, kind):
    """Of other lengths and other methods, beside one that all rows have; and some rows have none of their own."""
    rules = {"shared": PrefixRule(tokens=1, sites="kv"), "a": PREFIX, "b": PROJECTED, "p": PROMPT, "g": GATED}
    folder, batch = folder_of(kind), batch_of(packed=True)
    model, names = Model(folder, **rules), ("a", "b", "p", "g")
    lengths, said = batch.layout.lengths_B.tolist(), batch.replies.layout.lengths_B.tolist()
    for order in ((2, NONE, 1, 0), (3, 3, 0, NONE)):
        with torch.no_grad(), routed(model.trunk, Routing.of(names, order, batch.layout)):
            together = model.trunk(batch)
        for reply, row in enumerate(batch.replies.rows):
            own = {} if order[row] == NONE else {names[order[row]]: rules[names[order[row]]]}
            with torch.no_grad():
                alone = Model(folder, shared=rules["shared"], **own).trunk(single(batch_of(), reply))
            found = torch.cat(
                [together.flat_TD().split(lengths)[row], together.decoder.flat_TD().split(said)[reply]]
            )
            torch.testing.assert_close(found, states(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "umt5", "bart"])
def test_gradients_are_the_same_packed_padded_and_computed_again(folder_of, kind):
    found, weights = [], None
    for packed, how in itertools.product((True, False), (Activations.KEEP, Activations.RECOMPUTE)):
        model, batch = Model(folder_of(kind), a=PREFIX, b=GATED, c=PROJECTED), batch_of(packed=packed)
        model.trunk.activations = how
        with routed(model.trunk, Routing.of(("a", "c"), (0, 1, NONE, 1), batch.layout)):
            out = states(model.trunk(batch))
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        (out * weights).sum().backward()
        found.append({path: one.grad for path, one in model.sites.parameters() if one.requires_grad})
    assert all(grad is not None and grad.abs().max() > 0 for grad in found[0].values())
    for other in found[1:]:
        for path, grad in found[0].items():
            torch.testing.assert_close(
                other[path], grad, rtol=1e-4, atol=1e-5, msg=lambda m, p=path: f"{p}: {m}"
            )


GENERATED = [
    *((kind, {"x": PREFIX}) for kind in ("t5", "umt5", "bart", "m2m_100", "pegasus")),
    *((kind, {"x": GATED}) for kind in ("t5", "bart")),
    *((kind, {"x": PROMPT, "y": PROJECTED}) for kind in ("t5", "bart")),
]


@pytest.mark.parametrize(("kind", "rules"), GENERATED)
def test_generation_step_by_step_is_the_trunk_token_by_token(folder_of, kind, rules):
    model = Model(folder_of(kind), **rules)
    start, batch = reply_start(model.trunk.model.config), batch_of()
    sources = [row[: batch.layout.lengths_B[place]].tolist() for place, row in enumerate(batch.tokens)]
    answers = model.trunk.generate(sources, Decoding(max_new_tokens=6, stop_tokens=(58,)))
    assert any(len(answer) > 3 for answer in answers)
    for source, answer in zip(sources, answers, strict=True):
        said = torch.tensor([[start, *answer, 58][:7]])
        replies = replace(batch.replies, tokens_RL=said, layout=Layout.padded([said.shape[1]]), rows=(0,))
        one = replace(
            batch,
            tokens=torch.tensor([source]),
            layout=Layout.padded([len(source)]),
            ids=("x",),
            replies=replies,
        )
        with torch.no_grad():
            decoder = model.trunk(one).decoder
            assert decoder is not None
            assert decoder.project is not None
            logits = decoder.project(decoder.flat_TD())[:-1]
        written = logits.gather(1, said[0, 1:, None])[:, 0]
        assert torch.all(written >= logits.max(1).values - 1e-4)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_answers_go_through_a_tasks_own_adapter(folder_of, kind):
    folder, how = folder_of(kind), Decoding(max_new_tokens=5, stop_tokens=(59,), beams=2)
    model = Model(folder, a=PREFIX, p=PROMPT)
    model.network.routes = {"one": ("a",), "two": ("p",)}
    sources = [[5, 6, 8], [7]]
    for task, own in (("one", {"a": PREFIX}), ("two", {"p": PROMPT}), ("three", {})):
        alone = Model(folder, **own).trunk.generate(sources, how)
        assert model.network.generate(task, sources, how) == alone


def test_rows_and_replies_must_leave_room(folder_of):
    for sites, rows, replies in (("encoder.kv", True, False), ("decoder.self_attention", False, True)):
        model = Model(folder_of("bart"), x=PrefixRule(tokens=P, sites=sites))
        assert model.trunk.num_virtual(()) == P
        long = single(batch_of(), 2)
        tokens = torch.full((1, 38), 5)
        wide = replace(long, tokens=tokens, layout=Layout.padded([38]))
        said = replace(long, replies=replace(long.replies, tokens_RL=tokens, layout=Layout.padded([38])))
        for one, is_refused in ((wide, rows), (said, replies)):
            if is_refused:
                with pytest.raises(ModelError, match="at most 37 tokens behind 3 virtual ones"):
                    model.trunk(one)
            else:
                with torch.no_grad():
                    model.trunk(one)
    (answer,) = model.trunk.generate([[5] * 40], Decoding(max_new_tokens=60, stop_tokens=(58,)))
    assert len(answer) <= 40 - P - 1
    crossing = Model(folder_of("bart"), x=PrefixRule(tokens=P, sites="cross_attention"))
    assert crossing.trunk.num_virtual(()) == 0


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_what_only_reads_has_its_encoders_keys(folder_of, kind):
    folder, batch = folder_of(kind), batch_of()
    whole = Model(folder, x=PrefixRule(tokens=P, sites="encoder.kv"))
    reader = Model(folder, lm=False, x=PREFIX)
    assert {path.split(".")[0] for path in reader.trained("x")} == {"encoder"}
    with torch.no_grad():
        found = reader.trunk(replace(batch, replies=None)).flat_TD()
        torch.testing.assert_close(found, whole.trunk(batch).flat_TD(), rtol=1e-5, atol=1e-5)


BY_ROW = {
    "l": GatedLoraRule(rank=3, sites="encoder.qv"),
    "x": PrefixRule(tokens=P, gate="row", sites="encoder.kv"),
    "a": BottleneckRule(size=4, gate="row", sites="encoder.ffn"),
    "d": PrefixRule(tokens=2, sites="decoder.kv"),
}


def strengthened(folder, rules):
    return virtual.strengthened(Model(folder, **rules))


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_gates_of_rows_are_each_rows_own_and_so_is_what_is_written(folder_of, kind):
    model, batch = strengthened(folder_of(kind), BY_ROW), batch_of(packed=True)
    lengths, said = batch.layout.lengths_B.tolist(), batch.replies.layout.lengths_B.tolist()
    with torch.no_grad():
        together = model.network.features(batch)
        plain = states(Model(folder_of(kind), **{"d": BY_ROW["d"]}).trunk(batch))
        for reply, row in enumerate(batch.replies.rows):
            alone = model.network.features(single(batch_of(), reply))
            own = [together.flat_TD().split(lengths)[row], together.decoder.flat_TD().split(said)[reply]]
            torch.testing.assert_close(torch.cat(own), states(alone), rtol=1e-5, atol=2e-5)
    assert (states(together) - plain).abs().max() > 1e-2

    sources = [row[: batch.layout.lengths_B[place]].tolist() for place, row in enumerate(batch_of().tokens)]
    for beams in (1, 2):
        how = Decoding(max_new_tokens=6, stop_tokens=(58,), beams=beams)
        answers = model.network.generate("any", sources, how)
        assert answers == [model.network.generate("any", [one], how)[0] for one in sources]
    start = reply_start(model.trunk.model.config)
    answers = model.network.generate("any", sources, Decoding(max_new_tokens=6, stop_tokens=(58,)))
    for source, answer in zip(sources, answers, strict=True):
        written = torch.tensor([[start, *answer, 58][:7]])
        replies = replace(
            batch.replies, tokens_RL=written, layout=Layout.padded([written.shape[1]]), rows=(0,)
        )
        tokens, layout = torch.tensor([source]), Layout.padded([len(source)])
        one = replace(batch, tokens=tokens, layout=layout, ids=("x",), replies=replies)
        with torch.no_grad():
            decoder = model.network.features(one).decoder
            assert decoder is not None
            assert decoder.project is not None
            logits = decoder.project(decoder.flat_TD())[:-1]
        assert torch.all(logits.gather(1, written[0, 1:, None])[:, 0] >= logits.max(1).values - 1e-4)


def test_training_in_bf16_is_close(folder_of):
    exact = Model(folder_of("t5"), x=PREFIX, y=BottleneckRule(size=4, form="parallel"))
    with torch.no_grad():
        near = states(exact.trunk(batch_of()))
        with exact.network.computing(torch.bfloat16):
            far = states(exact.trunk(batch_of())).float()
    assert (far - near).norm() < 0.03 * near.norm()
