"""Generation on encoder-decoders: sources and replies in tokens, losses as transformers', one pass for all that share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.bart.modeling_bart import shift_tokens_right

from weft.core.example import Dropped, Encoded, Purpose
from weft.core.network import Inference, Network
from weft.core.routing import NONE
from weft.errors import ModelError
from weft.model.folder import locate
from weft.model.tokenizer import load_tokenizer
from weft.model.trunk import load_trunk
from weft.objective.supervised import Supervised
from weft.task.batching import make_batch

PAIRS = [
    {"source": "a man runs in berlin", "target": "the woman sleeps"},
    {"source": "he is happy", "target": "she is sad and very old"},
    {"source": "我在上海", "target": "他在北京"},
    {"source": "this is a new book", "target": "他是小人"},
    {"source": "no", "target": "not a dog"},
]
PREFIX = {"template": "translate English to Chinese: {instruction}"}


def open_trunk(folder: Path):
    return load_trunk(
        locate(str(folder), None, root=Path()), wants_lm_head=True, dropout=0.0, device=torch.device("cpu")
    )


def open_tokenizer(folder: Path, max_tokens: int = 64):
    return load_tokenizer(locate(str(folder), None, root=Path()), max_tokens=max_tokens)


@pytest.fixture(params=["tiny_t5", "tiny_bart"])
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


def encoded(kit, folder, rows=PAIRS, *, purpose=Purpose.LEARN, max_tokens=64, **options):
    task = kit.fit("generation", rows, name="write", **options)
    return task, task.encode(kit.rows(rows), open_tokenizer(folder, max_tokens), purpose)


def test_rows_are_read_and_answers_are_replies_with_the_tokenizers_own_marks(kit, folder):
    _, examples = encoded(kit, folder)
    stock = transformers.AutoTokenizer.from_pretrained(folder)
    start = transformers.AutoConfig.from_pretrained(folder).decoder_start_token_id
    for row, example in zip(PAIRS, examples, strict=True):
        assert list(example.tokens) == stock(row["source"])["input_ids"]
        assert list(example.reply.tokens) == [start, *stock(text_target=row["target"])["input_ids"]]
        assert example.gold == row["target"]
        assert example.num_tokens == example.longest == len(example.tokens) + len(example.reply.tokens)


def test_a_template_stands_before_what_is_read(kit, folder):
    _, examples = encoded(kit, folder, **PREFIX)
    stock = transformers.AutoTokenizer.from_pretrained(folder)
    assert (
        list(examples[0].tokens) == stock(f"translate English to Chinese: {PAIRS[0]['source']}")["input_ids"]
    )


def test_instruction_and_input_are_read_one_after_the_other(kit, folder):
    rows = [
        {"instruction": "name", "input": "a cat", "output": "x"},
        {"instruction": "count", "input": "", "output": "y"},
    ]
    _, examples = encoded(kit, folder, rows)
    stock = transformers.AutoTokenizer.from_pretrained(folder)
    assert list(examples[0].tokens) == stock("name\n\na cat")["input_ids"]
    assert list(examples[1].tokens) == stock("count")["input_ids"]


def test_prompts_are_the_same_to_learn_and_to_answer(kit, folder):
    task, learn = encoded(kit, folder)
    ask = task.encode(kit.rows(PAIRS), open_tokenizer(folder), Purpose.ANSWER)
    assert [one.tokens for one in ask] == [one.tokens for one in learn]
    assert all(one.reply is None for one in ask)
    batch = make_batch([("write", one) for one in ask], {"write": task}, pad=0)
    assert (batch.replies, batch.targets["write"].weight) == (None, 0.0)


def test_unusable_rows_are_dropped(kit, folder):
    rows = [PAIRS[0], {"source": "he runs", "target": ""}, {"source": "", "target": "no"}]
    _, examples = encoded(kit, folder, rows)
    assert isinstance(examples[0], Encoded)
    assert [one.reason for one in examples[1:] if isinstance(one, Dropped)] == [
        "no answer",
        "empty instruction",
    ]


def test_what_is_too_long_is_cut_and_counted(kit, folder):
    rows = [{"source": "cat " * 40, "target": "dog " * 30}]
    task, (example,) = encoded(kit, folder, rows, max_tokens=16)
    marks = len(open_tokenizer(folder).texts([""])[0].tokens)
    assert (len(example.tokens), len(example.reply.tokens)) == (16, 16)
    whole = 40 + marks + 1 + 30 + marks
    assert example.num_cut == whole - 32
    assert example.reply.tokens[-1] != open_tokenizer(folder).stop
    asked = task.encode(kit.rows(rows), open_tokenizer(folder, 16), Purpose.ANSWER)[0]
    assert asked.num_cut == 40 + marks - 16


@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradients_are_those_of_transformers(kit, folder, packed):
    task, examples = encoded(kit, folder, **PREFIX)
    trunk = open_trunk(folder)
    batch = make_batch([("write", one) for one in examples], {"write": task}, pad=0, packed=packed)
    network = Network(trunk, {"write": task.head(trunk.info, dropout=0.0, seed=0)})
    loss = Supervised({"write": task.loss})(batch, network)["write"]

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    stock = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()
    given = tokenizer(
        [f"translate English to Chinese: {row['source']}" for row in PAIRS], padding=True, return_tensors="pt"
    )
    labels = tokenizer(text_target=[row["target"] for row in PAIRS], padding=True, return_tensors="pt")[
        "input_ids"
    ]
    starts = shift_tokens_right(labels, tokenizer.pad_token_id, stock.config.decoder_start_token_id)
    labels[labels == tokenizer.pad_token_id] = -100
    expected = stock(
        input_ids=given["input_ids"],
        attention_mask=given["attention_mask"],
        decoder_input_ids=starts,
        labels=labels,
    ).loss
    count = float((labels != -100).sum())
    assert loss.weight == count
    torch.testing.assert_close(loss.total / count, expected, rtol=1e-5, atol=1e-6)
    (loss.total / count).backward()
    expected.backward()
    stocks = dict(stock.named_parameters())
    assert set(stocks) == {name for name, _ in trunk.model.named_parameters()}
    for name, parameter in trunk.model.named_parameters():
        if stocks[name].grad is not None:
            torch.testing.assert_close(parameter.grad, stocks[name].grad, rtol=1e-4, atol=1e-5)


def test_rows_and_replies_that_are_equal_pass_once(kit, folder):
    task, examples = encoded(kit, folder)
    other, others = encoded(kit, folder, [{**row, "target": "good"} for row in PAIRS])
    tasks = {"write": task, "praise": other}
    items = [("praise", one) for one in others] + [("write", one) for one in examples * 2]
    batch = make_batch(items, tasks, pad=0)
    assert batch.layout.num_rows == len(PAIRS)
    assert batch.replies.layout.num_rows == 2 * len(PAIRS)
    assert sorted(batch.replies.rows) == sorted([*range(len(PAIRS))] * 2)
    assert batch.num_tokens == sum(len(one.tokens) + len(one.reply.tokens) for one in examples) + sum(
        len(one.reply.tokens) for one in others
    )
    trunk = open_trunk(folder)
    heads = {name: one.head(trunk.info, dropout=0.0, seed=0) for name, one in tasks.items()}
    network = Network(trunk, heads)
    objective = Supervised({name: one.loss for name, one in tasks.items()})
    with torch.no_grad():
        together = objective(batch, network)
        for name, own, times in (("write", examples, 2), ("praise", others, 1)):
            alone = objective(make_batch([(name, one) for one in own], tasks, pad=0), network)[name]
            torch.testing.assert_close(together[name].total, times * alone.total, rtol=1e-5, atol=1e-5)
            assert together[name].weight == times * alone.weight


def test_understanding_and_writing_share_the_encoder(kit, folder):
    tokenizer = open_tokenizer(folder)
    write, examples = encoded(kit, folder)
    tasks, items = {"write": write}, [("write", one) for one in examples]
    for name in ("classification", "tagging"):
        sample = kit.samples[name]
        tasks[name] = kit.fit(name, sample.rows, name=name)
        items += [(name, one) for one in tasks[name].encode(kit.rows(sample.rows), tokenizer, Purpose.LEARN)]
    trunk = open_trunk(folder)
    network = Network(
        trunk, {name: task.head(trunk.info, dropout=0.0, seed=1) for name, task in tasks.items()}
    )
    objective = Supervised({name: task.loss for name, task in tasks.items()})
    for packed in (False, True):
        together = objective(make_batch(items, tasks, pad=0, packed=packed), network)
        for name in tasks:
            own = [item for item in items if item[0] == name]
            alone = objective(make_batch(own, tasks, pad=0, packed=packed), network)[name]
            torch.testing.assert_close(together[name].total, alone.total, rtol=1e-5, atol=1e-5)


def answers(network, task, examples):
    batch = make_batch([("write", one) for one in examples], {"write": task}, pad=0, packed=True)
    with torch.inference_mode():
        return task.answers(Inference(network, batch), examples)


def test_it_learns_pairs_by_heart_in_two_languages(kit, folder):
    task, examples = encoded(kit, folder, **PREFIX, max_new_tokens=12)
    trunk = open_trunk(folder)
    network = Network(trunk, {"write": task.head(trunk.info, dropout=0.0, seed=0)})
    batch = make_batch([("write", one) for one in examples], {"write": task}, pad=0)
    objective = Supervised({"write": task.loss})
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        loss = objective(batch, network)["write"]
        optimizer.zero_grad()
        (loss.total / loss.weight).backward()
        optimizer.step()
    with torch.no_grad():
        learnt = objective(batch, network)["write"]
    assert learnt.total.item() / learnt.weight < 0.05
    asked = task.encode(kit.rows(PAIRS), open_tokenizer(folder), Purpose.ANSWER)
    network.eval()
    found = answers(network, task, asked)
    assert found == [answers(network, task, [one])[0] for one in asked], "as one at a time"
    squeezed = [answer.text.replace(" ", "") for answer in found]
    assert squeezed == [row["target"].replace(" ", "") for row in PAIRS]


def test_adapters_of_their_own_reach_rows_and_replies(kit, tiny_t5):
    from weft.core.sites import SiteMap
    from weft.model.describe import describe
    from weft.strategy.apply import apply
    from weft.strategy.lora import LoraRule
    from weft.strategy.plan import plan

    write, examples = encoded(kit, tiny_t5)
    other, others = encoded(
        kit, tiny_t5, [{"source": row["target"], "target": row["source"]} for row in PAIRS]
    )
    tasks = {"write": write, "back": other}
    trunk = open_trunk(tiny_t5)
    network = Network(
        trunk, {name: task.head(trunk.info, dropout=0.0, seed=0) for name, task in tasks.items()}
    )
    sites = SiteMap(network, describe(network))
    made = plan(
        sites.view, [LoraRule(rank=2, per_task=True)], tasks=tuple(tasks), stage_lr=None, adapter="own"
    )
    sites, table = apply(sites, made, describe=describe, seed=0)
    moved = [path for path in (row.path for row in table.trained()) if "lora_B" in path]
    assert any(path.startswith("decoder.") and "cross_attention" in path for path in moved)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for path, parameter in sites.parameters():
            if path in moved:
                parameter.normal_(0.0, 0.3, generator=generator)
    network.routes = made.routes
    items = [("back", one) for one in others] + [("write", one) for one in examples]
    objective = Supervised({name: task.loss for name, task in tasks.items()})
    with torch.no_grad():
        together = objective(make_batch(items, tasks, pad=0, routes=network.routes), network)
        for name in tasks:
            own = [item for item in items if item[0] == name]
            alone = objective(make_batch(own, tasks, pad=0, routes=network.routes), network)[name]
            torch.testing.assert_close(together[name].total, alone.total, rtol=1e-5, atol=1e-4)
        network.routes = {"write": made.routes["back"], "back": made.routes["write"]}
        swapped = objective(make_batch(items, tasks, pad=0, routes=network.routes), network)
    assert abs(float(swapped["write"].total - together["write"].total)) > 0.1
    assert NONE not in made.routes


def test_a_trunk_that_only_reads_cannot_write(kit, folder):
    task = kit.fit("generation", PAIRS)
    trunk = load_trunk(
        locate(str(folder), None, root=Path()), wants_lm_head=False, dropout=0.0, device=torch.device("cpu")
    )
    with pytest.raises(ModelError, match="a causal model or an encoder-decoder"):
        task.head(trunk.info, dropout=0.0, seed=0)
