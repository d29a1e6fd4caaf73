"""What people type selects what they mean, and says what exists when it selects nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.errors import SiteError
from weft.strategy.selector import existing, select, select_sites


def sites_of(paths):
    return {path.rsplit(".", 1)[0] for path in paths}


def layers_of(paths):
    return sorted({int(match[1]) for path in paths if (match := re.search(r"layers\.(\d+)\.", path))})


BERT_LAYER = 16  # parameters of a layer: weight and bias of six linear sites and two norms


@pytest.mark.parametrize(
    ("text", "layers", "num_params"),
    [
        ("layers[0:4]", [0, 1, 2, 3], 4 * BERT_LAYER),
        ("layers[8:]", [8, 9, 10, 11], 4 * BERT_LAYER),
        ("layers[:2]", [0, 1], 2 * BERT_LAYER),
        ("layers[-2:]", [10, 11], 2 * BERT_LAYER),
        ("layers[-3:-1]", [9, 10], 2 * BERT_LAYER),
        ("layers[3]", [3], BERT_LAYER),
        ("layers[-1]", [11], BERT_LAYER),
        ("layers.3", [3], BERT_LAYER),
        ("layers[:]", list(range(12)), 12 * BERT_LAYER),
        ("layers", list(range(12)), 12 * BERT_LAYER),
        ("encoder", list(range(12)), 12 * BERT_LAYER),
        ("top 2", [10, 11], 2 * BERT_LAYER),
        ("bottom 4", [0, 1, 2, 3], 4 * BERT_LAYER),
        ("attention", list(range(12)), 12 * 8),
        ("ffn", list(range(12)), 12 * 4),
        ("layers[8:].attention.query", [8, 9, 10, 11], 8),
        ("layers[8:].attention.query.weight", [8, 9, 10, 11], 4),
        ("layers[4:].bias", list(range(4, 12)), 8 * 8),
        ("layers[0:2].attention.bias", [0, 1], 8),
        ("layers[0:2].norm", [0, 1], 8),
        ("layers[0:2].norm.ffn", [0, 1], 4),
        ("layers[0:2].linear", [0, 1], 24),
        ("top 2.attention", [10, 11], 16),
        ("attention.query", list(range(12)), 24),
        ("encoder.layers[0:2].ffn", [0, 1], 8),
        ("layers.3.attention.query", [3], 2),
        ("layers.3.attention.query.weight", [3], 1),
        ("embeddings", [], 4),
        ("embeddings.word", [], 1),
        ("pooler", [], 2),
        ("heads", [], 4),
        ("heads.entities", [], 2),
        ("heads.entities.out.bias", [], 1),
        ("heads.bias", [], 2),
    ],
)
def test_selectors_over_a_bert(bert, text, layers, num_params):
    paths = select(bert, text)
    assert layers_of(paths) == layers
    assert len(paths) == len(set(paths)) == num_params


def test_all_is_the_trunk(bert):
    assert set(select(bert, "all")) | set(select(bert, "heads")) == {
        i.path for s in bert.sites for i in s.params
    }
    assert not set(select(bert, "all")) & set(select(bert, "heads"))


def test_kinds_leave_heads_alone(bert):
    assert len(select(bert, "bias")) == 12 * 8 + 2  # layers, embedding norm, pooler
    assert len(select(bert, "norm")) == 2 * (12 * 2 + 1)
    assert len(select(bert, "linear")) == 2 * (12 * 6 + 1)
    assert not any(
        path.startswith("heads") for word in ("bias", "norm", "linear") for path in select(bert, word)
    )


def test_attention_is_not_the_norm_that_is_named_after_it(bert):
    assert not any("norm" in path for path in select(bert, "attention"))


def test_unions_keep_view_order_and_repeat_nothing(bert):
    union = select(bert, "pooler, layers[0].ffn + layers[0], embeddings")
    assert union == (*select(bert, "embeddings"), *select(bert, "layers[0]"), *select(bert, "pooler"))


def test_blanks_do_not_matter(bert):
    assert select(bert, "  layers[ 0 : 4 ] . ffn ") == select(bert, "layers[0:4].ffn")
    assert select(bert, "top  2") == select(bert, "layers[10:]")


def test_a_tied_parameter_answers_to_both_names(llama):
    assert select(llama, "lm_head") == select(llama, "embeddings") == ("embeddings.word.weight",)
    assert select_sites(llama, "lm_head") == ("lm_head",)
    assert select(llama, "embeddings, lm_head") == ("embeddings.word.weight",)
    assert len(select(llama, "all")) == 1 + 4 * 9 + 1


def test_linear_leaves_out_the_output_embedding(llama):
    assert len(select_sites(llama, "linear")) == 4 * 7
    assert "lm_head" not in select_sites(llama, "linear")
    assert "lm_head" in select_sites(llama, "all")


def test_one_stack_answers_to_either_word_with_its_final_norm(llama):
    assert select(llama, "decoder") == select(llama, "encoder") == select(llama, "layers, final_norm")


def test_pairs_of_attentions_matrices_are_found_apart_and_fused(llama, gpt2):
    for word, parts in (("kv", ("key", "value")), ("qv", ("query", "value"))):
        assert select_sites(llama, f"layers[1].{word}") == tuple(
            f"layers.1.attention.{part}" for part in parts
        )
        assert select_sites(gpt2, f"layers[1].{word}") == ("layers.1.attention.qkv",)


def test_fused_and_transposed_sites(gpt2):
    assert sites_of(select(gpt2, "layers[1:].attention")) == {
        "layers.1.attention.qkv", "layers.1.attention.output", "layers.2.attention.qkv", "layers.2.attention.output"
    }  # fmt: skip
    assert len(select_sites(gpt2, "linear")) == 3 * 4
    assert select_sites(gpt2, r"re:attn\.c_attn$") == tuple(f"layers.{i}.attention.qkv" for i in range(3))


def test_without_a_prefix_both_stacks_are_meant(t5):
    paths = select(t5, "layers[0:2].ffn.up.weight")
    assert paths == (
        "encoder.layers.0.ffn.up.weight",
        "encoder.layers.1.ffn.up.weight",
        "decoder.layers.0.ffn.up.weight",
        "decoder.layers.1.ffn.up.weight",
    )
    assert sites_of(select(t5, "top 1.ffn.up")) == {"encoder.layers.3.ffn.up", "decoder.layers.1.ffn.up"}


def test_a_stack_by_name(t5):
    assert all(path.startswith("encoder.") for path in select(t5, "encoder"))
    assert "encoder.final_norm.weight" in select(t5, "encoder")
    assert layers_of(select(t5, "encoder.layers[2:]")) == [2, 3]
    assert len(select_sites(t5, "decoder.attention")) == 2 * 8
    assert len(select_sites(t5, "decoder.cross_attention")) == 2 * 4
    own = select_sites(t5, "decoder.self_attention")
    assert own == tuple(path for path in select_sites(t5, "decoder.attention") if ".attention." in path)
    assert len(own) == 2 * 4
    assert sites_of(select(t5, "embeddings")) == {"embeddings.word", "encoder.embeddings.position"}
    # the decoder's table is the shared one, which belongs to no stack
    assert "embeddings.word.weight" not in select(t5, "decoder")
    assert select(t5, "decoder.embeddings") == ("embeddings.word.weight",)


def test_bounds_hold_for_each_stack(t5):
    assert layers_of(select(t5, "encoder.layers[3]")) == [3]
    with pytest.raises(SiteError, match="within the 2 layers"):
        select(t5, "layers[3]")


def test_without_a_table_raw_names_and_kinds_work(unnamed):
    assert len(select(unnamed, "all")) == 1 + 3 * 6
    assert select_sites(unnamed, "blocks.1.mixer") == ("blocks.1.mixer.in_proj", "blocks.1.mixer.out_proj")
    assert len(select_sites(unnamed, r"re:mixer\.(in|out)_proj")) == 6
    assert len(select_sites(unnamed, "re:^blocks.{1,2}0")) == 3  # a comma in a regex is no union
    assert len(select(unnamed, "norm")) == 6
    assert len(select(unnamed, "bias")) == 9
    with pytest.raises(SiteError, match=r"no name table: use re:<regex>.*blocks\.\*\.mixer\.in_proj"):
        select(unnamed, "attention")


def test_a_regex_never_reaches_a_head(bert):
    with pytest.raises(SiteError, match="matches nothing"):
        select(bert, r"re:^heads\.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("atention", "Did you mean 'attention'"),
        ("layers[0:4].attention.qurey", "layers[0:12].attention.query"),
        ("lm_head", "matches nothing"),
        ("heads.sentimant", "Did you mean 'heads.sentiment.out'"),
        ("layers[10:20]", "within the 12 layers"),
        ("layers[12:]", "within the 12 layers"),
        ("layers[4:2]", "within the 12 layers"),
        ("top 13", "within the 12 layers"),
        ("layers[-13]", "within the 12 layers"),
        ("top 0", "matches nothing"),
        ("layers[]", "are given as"),
        ("layers[1:2:3]", "are given as"),
        ("ffn[0:2]", "cannot be read"),
        ("layers[0", "cannot be read"),
        ("a..b", "cannot be read"),
        ("", "is empty"),
        ("attention,", "is empty"),
        (", ffn", "is empty"),
        ("re:(", "regular expression"),
        ("re:nowhere", "matches nothing"),
        ("attention, nowhere", "nowhere: must match"),
    ],
)
def test_what_is_wrong_is_said(bert, text, said):
    with pytest.raises(SiteError, match=re.escape(said)):
        select(bert, text)


def test_what_exists_is_listed_folded(bert):
    listed = existing(bert)
    assert len(listed) == 3 + 8 + 1 + 2
    assert "layers[0:12].attention.query" in listed
    with pytest.raises(SiteError) as caught:
        select(bert, "lm_head")
    assert all(name in str(caught.value) for name in (*listed, "attention", "norm"))
    assert "final_norm" not in str(caught.value)  # this model has none


def test_parameters_are_not_whole_sites(bert, llama):
    with pytest.raises(SiteError, match="whole sites"):
        select_sites(bert, "bias")
    with pytest.raises(SiteError, match="whole sites"):
        select_sites(bert, "layers.3.attention.query.weight")
    with pytest.raises(SiteError, match="matches nothing"):
        select(llama, "bias")


@given(count=st.integers(1, 9), start=st.integers(-12, 12), stop=st.integers(-12, 12))
def test_ranges_are_pythons_where_they_are_within(count, start, stop):
    sites = tuple(
        Site(f"layers.{i}.gain", SiteKind.OTHER, f"l.{i}", (ParamInfo(f"layers.{i}.gain.weight", (1,)),))
        for i in range(count)
    )
    view = ModelView("toy", sites, {"": count})
    expected = list(range(count)[start:stop])
    is_within = -count <= start <= count and -count <= stop <= count
    if is_within and expected:
        assert layers_of(select(view, f"layers[{start}:{stop}]")) == expected
    else:
        with pytest.raises(SiteError):
            select(view, f"layers[{start}:{stop}]")


def test_a_mistake_is_told_in_the_words_that_were_typed(bert):
    with pytest.raises(SiteError, match=r"^top 99: must lie within the 12 layers"):
        select(bert, "top 99")
    with pytest.raises(SiteError, match=r"^bottom 13\.ffn: must lie within"):
        select(bert, "norm, bottom 13.ffn")
