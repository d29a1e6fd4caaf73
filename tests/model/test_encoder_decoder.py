"""Encoder-decoders: states of rows and of replies, logits and what is written are transformers' own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.core.batch import Batch, Replies
from weft.core.decoding import Decoding
from weft.core.features import Pooling
from weft.core.layout import Layout
from weft.core.network import Network
from weft.errors import ModelError
from weft.model import compiled
from weft.model.backbone import UNLIMITED
from weft.model.decoder import Logits, decoder_of, reply_start
from weft.model.folder import inspect
from weft.model.trunk import empty_trunk, is_causal, is_encoder_decoder, load_trunk
from weft.recipe.spec import Activations

CPU = torch.device("cpu")
AUTO = "AutoModelForSeq2SeqLM"
KINDS = ["t5", "mt5", "umt5", "bart", "mbart", "m2m_100", "marian", "pegasus"]
LENGTHS, REPLIES, ROWS = (5, 1, 9, 3), (4, 1, 6, 2, 3), (2, 0, 1, 3, 2)
"""Rows, replies, and the row of each reply: one has two, and they are in another order than the rows."""


def load(folder, *, lm=True, dropout=0.0):
    return load_trunk(folder, wants_lm_head=lm, dropout=dropout, device=CPU)


def grid(lengths, *, seed=0, pad=0) -> tuple[Tensor, Layout]:
    layout = Layout.padded(lengths)
    tokens_BL = torch.randint(
        3, 60, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed)
    )
    return torch.where(layout.mask_BL(), tokens_BL, pad), layout


def batch_of(*, packed=False, pad=0, rows=ROWS, replies=REPLIES) -> Batch:
    tokens_BL, layout = grid(LENGTHS, pad=pad)
    own = Replies(*grid(replies, seed=1, pad=pad), rows)
    made = Batch(tokens_BL, None, layout, {}, tuple("abcd"), replies=own)
    if not packed:
        return made
    return replace(made, tokens=tokens_BL[layout.mask_BL()], layout=Layout.packed(LENGTHS))


def stock_of(folder):
    return getattr(transformers, AUTO).from_pretrained(folder.path, attn_implementation="eager").eval()


def stock_logits(stock, batch) -> Tensor:
    """Return the logits (M, V) of all tokens of the replies of a padded batch."""
    rows_R = torch.tensor(batch.replies.rows)
    logits = stock(
        input_ids=batch.tokens[rows_R],
        attention_mask=batch.layout.mask_BL()[rows_R].long(),
        decoder_input_ids=batch.replies.tokens_RL,
    ).logits
    return logits[batch.replies.layout.mask_BL()]


def own_logits(trunk, batch) -> Tensor:
    decoder = trunk(batch).decoder
    return decoder.project(decoder.flat_TD())


def changed(folder, target, change, **config):
    """Copy a folder with what ``change`` does to its tensors, and other settings."""
    shutil.copytree(folder.path, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return inspect(target, name="changed")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_states_and_logits_are_transformers_own(saved, kind, packed):
    folder = saved(kind, AUTO)
    trunk, stock = load(folder), stock_of(folder)
    batch, plain = batch_of(packed=packed, pad=1), batch_of(pad=1)
    mask = plain.layout.mask_BL()
    with torch.no_grad():
        features = trunk(batch)
        encoded = stock.get_encoder()(input_ids=plain.tokens, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(features.flat_TD(), encoded[mask], rtol=1e-5, atol=1e-6)
        assert features.project is None
        torch.testing.assert_close(own_logits(trunk, batch), stock_logits(stock, plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_gradients_of_rows_and_replies_are_transformers_own(saved, kind):
    folder = saved(kind, AUTO)
    trunk, stock = load(folder), stock_of(folder)
    for logits in (own_logits(trunk, batch_of(packed=True)), stock_logits(stock, batch_of())):
        logits.logsumexp(1).sum().backward()
    expected = dict(stock.named_parameters())
    for name, parameter in trunk.model.named_parameters():
        found, own = parameter.grad, expected[name].grad
        assert (found is None) == (own is None), name
        if found is not None:
            torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_factor_of_t5_and_its_absence_are_measured(saved, tmp_path):
    folder = saved("t5", AUTO)
    assert decoder_of(stock_of(folder)).scale == 16**-0.5
    plain = changed(
        folder, tmp_path / "plain", lambda _: None, tie_word_embeddings=False, scale_decoder_outputs=False
    )
    stock, trunk = stock_of(plain), load(plain)
    assert decoder_of(stock).scale == 1.0
    with torch.no_grad():
        torch.testing.assert_close(own_logits(trunk, batch_of()), stock_logits(stock, batch_of()))


def test_a_bias_on_logits_is_part_of_them(saved, tmp_path):
    def bias(tensors):
        tensors["final_logits_bias"] = torch.linspace(-1, 1, 60)[None]

    folder = changed(saved("bart", AUTO), tmp_path / "biased", bias)
    stock, trunk = stock_of(folder), load(folder)
    assert isinstance(trunk(batch_of()).decoder.project, Logits)
    with torch.no_grad():
        found, expected = own_logits(trunk, batch_of()), stock_logits(stock, batch_of())
        torch.testing.assert_close(found, expected)
    assert not isinstance(load(saved("bart", AUTO))(batch_of()).decoder.project, Logits)


def test_logits_made_in_another_way_are_refused(saved):
    stock = stock_of(saved("bart", AUTO))
    stock.lm_head.register_forward_hook(lambda _module, _args, logits: logits.tanh())
    plain = stock.lm_head.forward
    stock.lm_head.forward = lambda states: plain(states) * 2 if states.dim() == 3 else plain(states)
    with pytest.raises(ModelError, match="logits must be the output embedding's"):
        decoder_of(stock)


@pytest.mark.parametrize("lm", [False, True])
@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_the_empty_trunk_is_the_loaded_one_without_weights(saved, kind, lm):
    folder = saved(kind, AUTO)
    empty, full = empty_trunk(folder, wants_lm_head=lm, dropout=0.0, device=CPU), load(folder, lm=lm)
    assert empty.info == full.info
    shapes = {name: p.shape for name, p in full.named_parameters()}
    assert {name: p.shape for name, p in empty.named_parameters()} == shapes
    assert all(p.is_meta for p in empty.parameters())


def test_an_output_embedding_of_its_own_is_known_without_weights(saved, tmp_path):
    def separate(tensors):
        tensors["lm_head.weight"] = tensors["shared.weight"] + 1

    folder = changed(saved("t5", AUTO), tmp_path / "separate", separate)
    empty, full = empty_trunk(folder, wants_lm_head=True, dropout=0.0, device=CPU), load(folder)
    names = [name for name, _ in full.named_parameters()]
    assert "model.lm_head.weight" in names
    assert [name for name, _ in empty.named_parameters()] == names

    def equal(tensors):
        tensors["lm_head.weight"] = tensors["shared.weight"].clone()

    folder = changed(saved("t5", AUTO), tmp_path / "equal", equal)
    empty = empty_trunk(folder, wants_lm_head=True, dropout=0.0, device=CPU)
    assert "model.lm_head.weight" not in dict(empty.named_parameters())


@pytest.mark.parametrize(("kind", "most"), [("t5", UNLIMITED), ("bart", 40), ("marian", 40)])
def test_info_says_what_it_is(saved, kind, most):
    info = load(saved(kind, AUTO)).info
    assert (info.is_encoder_decoder, info.is_causal, info.has_pooler) == (True, False, False)
    assert (info.width, info.vocabulary, info.pooling, info.has_bias) == (16, 60, Pooling.MEAN, True)
    assert info.max_positions == most
    assert is_encoder_decoder(kind)
    assert not is_causal(kind)


@pytest.mark.parametrize("auto", ["AutoModel", AUTO])
@pytest.mark.parametrize("kind", ["t5", "bart", "pegasus"])
def test_where_nothing_is_written_there_is_only_the_encoder(saved, kind, auto):
    trunk = load(saved(kind, auto), lm=False)
    assert not trunk.info.is_encoder_decoder
    assert trunk.info.vocabulary == 0
    assert not any("decoder" in name for name, _ in trunk.named_parameters())
    batch = replace(batch_of(), replies=None)
    with torch.no_grad():
        encoded = load(saved(kind, auto), lm=False).reader(
            input_ids=batch.tokens, attention_mask=batch.layout.mask_BL().long()
        )
        found = trunk(batch).flat_TD()
    torch.testing.assert_close(found, encoded.last_hidden_state[batch.layout.mask_BL()])
    with pytest.raises(ModelError, match="a decoder of its own"):
        trunk(batch_of())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_the_argmax_without_a_cache(saved, kind):
    trunk = load(saved(kind, AUTO))
    stock = stock_of(saved(kind, AUTO))
    start, stop = reply_start(stock.config), 59
    sources = [row[row != 0].tolist() for row in grid(LENGTHS)[0]]
    found = trunk.generate(sources, Decoding(max_new_tokens=6, stop_tokens=(stop,)))
    with torch.no_grad():
        for source, answer in zip(sources, found, strict=True):
            written = [start]
            while len(written) < 7:
                logits = stock(
                    input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([written])
                ).logits
                token = int(logits[0, -1].argmax())
                if token == stop:
                    break
                written.append(token)
            assert answer == written[1:]
    assert any(found)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_beams_are_those_of_transformers_and_draws_are_each_rows_own(saved, kind):
    trunk, stock = load(saved(kind, AUTO)), stock_of(saved(kind, AUTO))
    source, other = [7, 9, 11, 4], [5] * 9
    stock.generation_config = transformers.GenerationConfig()  # a BART folder forces its own last token
    how = Decoding(max_new_tokens=8, stop_tokens=(59,), beams=3)
    start = reply_start(stock.config)
    expected = stock.generate(
        input_ids=torch.tensor([source]),
        generation_config=transformers.GenerationConfig(
            num_beams=3, max_new_tokens=8, eos_token_id=59, pad_token_id=59, decoder_start_token_id=start
        ),
    )
    assert trunk.generate([source, other], how)[0] == how.answer(expected[0, 1:].tolist())
    drawn = Decoding(max_new_tokens=8, stop_tokens=(59,), temperature=2.0, seed=3)
    together = trunk.generate([source, other], drawn)
    assert together == [trunk.generate([one], drawn)[0] for one in (source, other)]
    assert together != trunk.generate([source, other], replace(drawn, seed=4))


def test_a_reply_has_all_positions_whatever_its_source(saved):
    trunk = load(saved("bart", AUTO))
    full = trunk.generate([[5] * 40, [6]], Decoding(max_new_tokens=100, stop_tokens=(59,)))
    assert max(map(len, full)) <= 39
    with pytest.raises(ModelError, match="at most 40 tokens"):
        trunk(batch_of(replies=(4, 1, 41, 2, 3)))


def test_in_bf16_rows_and_replies_are_computed_at_even_widths_and_come_back_at_their_own(saved):
    exact = load(saved("bart", AUTO))
    rough = load(saved("bart", AUTO))
    rough.model.bfloat16()
    with torch.no_grad():
        near, far = exact(batch_of()), rough(batch_of())
    assert near.decoder.hidden.shape == far.decoder.hidden.shape
    torch.testing.assert_close(far.flat_TD().float(), near.flat_TD(), rtol=0.1, atol=0.1)
    torch.testing.assert_close(far.decoder.flat_TD().float(), near.decoder.flat_TD(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_dropout_acts_while_training_only(saved, kind):
    trunk = load(saved(kind, AUTO), dropout=0.5)
    with torch.no_grad():
        one, two = own_logits(trunk, batch_of()), own_logits(trunk, batch_of())
        assert torch.equal(one, two)
        trunk.train()
        assert not torch.equal(own_logits(trunk, batch_of()), own_logits(trunk, batch_of()))


def passed(trunk) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of a pass with dropout."""
    trunk.zero_grad()
    torch.manual_seed(5)
    with Network(trunk, {}).computing(torch.float32):
        features = trunk(batch_of(packed=True))
        states = torch.cat([features.flat_TD(), features.decoder.flat_TD()])
        loss = (states * torch.linspace(-1, 1, states.numel()).view_as(states).sin()).square().sum()
        loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in trunk.named_parameters() if p.grad is not None}


def assert_same(found, expected, **how) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        torch.testing.assert_close(found[1][name], grad, msg=lambda m, n=name: f"{n}: {m}", **how)


@pytest.mark.parametrize("how", [Activations.RECOMPUTE, Activations.OFFLOAD])
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_layers_of_both_stacks_can_be_computed_again(saved, kind, how):
    trunk = load(saved(kind, AUTO), dropout=0.1).train()
    assert trunk.recomputes
    expected = passed(trunk)
    runs: list[str] = []
    parts = {"encoder": trunk.reader, "decoder": trunk.model.get_decoder()}
    for name, stack in parts.items():
        norm = next(part for part in stack.modules() if "LayerNorm" in type(part).__name__)
        norm.register_forward_hook(lambda *_, name=name: runs.append(name))
    trunk.activations = how
    assert_same(passed(trunk), expected, rtol=0, atol=0)
    assert sorted(runs) == ["decoder"] * 2 + ["encoder"] * 2


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the tracer looks at it
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_layers_of_both_stacks_run_compiled(saved, kind, monkeypatch):
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", backend)
    compiled.function_of.cache_clear()
    trunk = load(saved(kind, AUTO)).train()
    expected = passed(trunk)
    assert not graphs
    trunk.compiles = True
    assert_same(passed(trunk), expected, rtol=1e-4, atol=1e-5)
    assert len(graphs) >= 2, "one kind of layer in each stack at least"
    compiled.function_of.cache_clear()
    torch.compiler.reset()


def test_a_perturbation_is_added_to_what_the_encoder_reads(saved):
    trunk, batch = load(saved("bart", AUTO)), batch_of()
    noise_BLD = 0.1 * torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(0))
    mask = batch.layout.mask_BL()
    with torch.no_grad():
        words = trunk.reader.get_input_embeddings()(batch.tokens) + noise_BLD
        expected = trunk.reader(inputs_embeds=words, attention_mask=mask.long()).last_hidden_state
        found = trunk(batch, perturb=noise_BLD)
    torch.testing.assert_close(found.flat_TD(), expected[mask])
    with torch.no_grad():
        assert not torch.allclose(found.decoder.flat_TD(), trunk(batch).decoder.flat_TD(), atol=1e-3)


def test_the_token_that_a_reply_begins_from():
    assert reply_start(transformers.BertConfig()) is None
    assert reply_start(transformers.BartConfig(decoder_start_token_id=7)) == 7
    assert reply_start(transformers.BartConfig(decoder_start_token_id=None, bos_token_id=4)) == 4
    nothing = transformers.BartConfig(decoder_start_token_id=None, bos_token_id=None, pad_token_id=None)
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        reply_start(nothing)


def test_what_is_not_for_text_of_one_width_is_refused(saved, tmp_path):
    shutil.copytree(saved("bart").path, tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(json.dumps({"model_type": "t5gemma"}))
    with pytest.raises(ModelError, match="encoder-decoder of one width"):
        load(inspect(tmp_path / "other", name="other"))
