"""Rows as people have them: what ``weft init`` makes of each, in English and in Chinese.

Of every file the recipe is written, decoded again, and its rows are read by the task that it names: none may be dropped.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from weft.build.catalogue import catalogue
from weft.core.example import Dropped, Purpose
from weft.core.example import Row as DataRow
from weft.data.sources import read
from weft.model.folder import locate
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.recipe.load import load
from weft.task.prompts import teaches
from weft.task.registry import FAMILIES

Weft = Callable[..., tuple[int, str, str]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A file as it is met in practice, and the task that it is for.

    Attributes:
        name: of the file; its ending says how the rows are written.
        rows: what is in it, or the text itself.
        kind: of the task.
        options: that differ from the defaults.
    """

    name: str
    rows: list[Row] | str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def text(self) -> str:
        """The content of the file."""
        if isinstance(self.rows, str):
            return self.rows
        if self.name.endswith(".json"):
            return json.dumps(self.rows, ensure_ascii=False)
        if self.name.endswith(".jsonl"):
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(
            buffer, list(self.rows[0]), delimiter="\t" if self.name.endswith(".tsv") else ","
        )
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()


def both(first: Row, second: Row, **same: Any) -> list[Row]:
    return [{**first, **same}, {**second, **same}]


HUMAN = [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "您好，请问有什么可以帮您？"}]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
]
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOL = [
    {"role": "user", "content": "Is it cold in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": '{"degrees": -3}'},
    {"role": "assistant", "content": "Yes, three below zero."},
]
SQUAD = {
    "context": "Anna moved to Paris in May.",
    "question": "Where did Anna move?",
    "answers": {"text": ["Paris"], "answer_start": [14]},
}
NESTED = {
    "version": "1.1",
    "data": [
        {
            "title": "Anna",
            "paragraphs": [
                {
                    "context": SQUAD["context"],
                    "qas": [
                        {
                            "id": "1",
                            "question": SQUAD["question"],
                            "answers": [{"text": "Paris", "answer_start": 14}],
                        }
                    ],
                }
            ],
        }
    ],
}
CMRC = [
    {
        "context_id": "D0",
        "context_text": "安娜五月搬到了巴黎。",
        "title": "安娜",
        "qas": [{"query_id": "Q0", "query_text": "安娜搬到了哪里？", "answers": ["巴黎", "巴黎"]}],
    }
]
COPA = both(
    {"choice1": "It rained.", "choice2": "It sang.", "label": 0},
    {"choice1": "It sang.", "choice2": "It rained.", "label": 1},
    premise="The grass is wet.",
    question="cause",
)
PAIR = {"text": "question", "pair": "sentence"}

SHAPES = {
    # ---- one text and a label
    "imdb": Shape("imdb.csv", both({"review": "good", "sentiment": "positive"}, {"review": "bad", "sentiment": "negative"}), "classification"),
    "sst-2": Shape("sst2.tsv", both({"sentence": "a joy", "label": 1}, {"sentence": "dull", "label": 0}), "classification"),
    "chnsenticorp": Shape("chn.csv", both({"label": 1, "review": "房间很干净"}, {"label": 0, "review": "服务太差"}), "classification"),
    "chinese columns": Shape("zh.csv", both({"内容": "怎么退货", "意图": "退货"}, {"内容": "多少钱", "意图": "价格"}), "classification"),
    "tnews": Shape("tnews.jsonl", both({"sentence": "股市上涨", "label": "104", "label_desc": "news_finance"}, {"sentence": "球队夺冠", "label": "103", "label_desc": "news_sports"}, keywords=""), "classification"),
    "clinc": Shape("clinc.json", both({"text": "tell a joke", "intent": "joke"}, {"text": "hello", "intent": "greet"}), "classification"),
    "pandas index": Shape("idx.csv", ",text,category\n0,a b,x\n1,c d,y\n", "classification"),
    "title and body": Shape("news.jsonl", both({"title": "Rain", "text": "it rained", "label": "weather"}, {"title": "Goal", "text": "they scored", "label": "sport"}), "classification"),
    "booleans": Shape("spam.jsonl", both({"message": "win now", "label": True}, {"message": "see you", "label": False}), "classification"),
    # ---- several labels
    "label lists": Shape("many.jsonl", both({"text": "why so slow", "labels": ["why", "slow"]}, {"text": "yes", "labels": []}), "classification", {"multi_label": True}),
    "labels with bars": Shape("bars.csv", both({"文本": "又慢又贵", "标签": "慢|贵"}, {"文本": "很好", "标签": "好"}), "classification", {"multi_label": True}),
    # ---- pairs
    "mnli": Shape("mnli.jsonl", both({"premise": "He eats.", "hypothesis": "He lives.", "label": "entailment"}, {"premise": "He eats.", "hypothesis": "He sleeps.", "label": "contradiction"}), "classification"),
    "snli": Shape("snli.jsonl", both({"sentence1": "a", "sentence2": "b", "gold_label": "neutral"}, {"sentence1": "c", "sentence2": "d", "gold_label": "entailment"}), "classification"),
    "afqmc": Shape("afqmc.jsonl", both({"sentence1": "怎么还款", "sentence2": "如何还款", "label": "1"}, {"sentence1": "怎么还款", "sentence2": "怎么开户", "label": "0"}), "classification"),
    "qqp": Shape("qqp.tsv", both({"question1": "how", "question2": "in what way", "is_duplicate": 1, "label": 1}, {"question1": "how", "question2": "why", "is_duplicate": 0, "label": 0}), "classification"),
    "qnli": Shape("qnli.tsv", both({"question": "who?", "sentence": "Ann.", "label": "entailment"}, {"question": "who?", "sentence": "No.", "label": "not_entailment"}), "classification", {"columns": PAIR}),
    "boolq": Shape("boolq.jsonl", both({"question": "is it wet", "answer": True}, {"question": "is it dry", "answer": False}, title="Water", passage="Water is wet."), "classification", {"columns": {"text": "question", "pair": "passage", "label": "answer"}}),
    "chinese retrieval": Shape("rank.csv", both({"问题": "怎么退款", "段落": "退款三天到账", "标签": 1}, {"问题": "怎么退款", "段落": "营业时间", "标签": 0}), "classification", {"columns": {"text": "问题", "pair": "段落"}}),
    "chinese pairs": Shape("zhpair.csv", both({"句子1": "他在吃饭", "句子2": "他饿了", "标签": "中立"}, {"句子1": "他在吃饭", "句子2": "他没吃", "标签": "矛盾"}), "classification"),
    # ---- numbers
    "sts-b": Shape("stsb.tsv", both({"sentence1": "a cat", "sentence2": "a dog", "score": 2.6}, {"sentence1": "a cat", "sentence2": "a cat", "score": 5.0}), "regression"),
    "chinese similarity": Shape("sts.jsonl", both({"文本1": "猫", "文本2": "狗", "相似度": 0.4}, {"文本1": "猫", "文本2": "猫", "相似度": 1.0}), "regression"),
    "numbers as text": Shape("num.csv", both({"text": "fine", "score": "0.5"}, {"text": "poor", "score": "-1"}), "regression"),
    "hundred points": Shape("essay.jsonl", [{"text": f"essay {n}", "score": 40 + 3 * n} for n in range(15)], "regression"),
    "stars": Shape("stars.csv", [{"review": f"text {n}", "stars": 1 + n % 5} for n in range(10)], "ordinal"),
    "chinese stars": Shape("xing.jsonl", [{"评论": f"评论{n}", "评分": 1 + n % 5} for n in range(10)], "ordinal"),
    # ---- words and tags
    "conll": Shape("ner.conll", "-DOCSTART- -X- O O\n\nAnna NNP B-NP B-PER\nsleeps VBZ B-VP O\n\nOslo NNP B-NP B-LOC\n", "tagging"),
    "conll as text": Shape("ner.txt", "安 B-PER\n娜 I-PER\n睡 O\n\n巴 B-LOC\n黎 I-LOC\n", "tagging"),
    "tokens and tags": Shape("tag.jsonl", both({"tokens": ["Anna", "sleeps"], "ner_tags": ["B-PER", "O"]}, {"tokens": ["Oslo"], "ner_tags": ["B-LOC"]}), "tagging"),
    "slots in csv": Shape("slots.csv", both({"words": "to Oslo", "slots": "O B-city"}, {"words": "by bus", "slots": "O B-means"}), "tagging"),
    "chinese tags": Shape("zhtag.jsonl", both({"词": ["小", "明"], "标注": ["B-人", "I-人"]}, {"词": ["睡"], "标注": ["O"]}), "tagging"),
    # ---- questions on a text
    "squad": Shape("squad.jsonl", [SQUAD], "qa"),
    "squad nested": Shape("nested.json", json.dumps(NESTED), "qa"),
    "cmrc nested": Shape("cmrc.json", json.dumps(CMRC, ensure_ascii=False), "qa"),
    "chinese answers": Shape("zhqa.jsonl", [{"文章": "安娜五月搬到了巴黎。", "问题": "安娜搬到了哪里？", "答案": "巴黎"}], "qa"),
    # ---- choices
    "copa": Shape("copa.jsonl", COPA, "choice"),
    "race": Shape("race.jsonl", both({"answer": "A"}, {"answer": "C"}, article="Ann went home.", question="Who went?", options=["Ann", "Ben", "Eva", "Dan"]), "choice"),
    "mmlu": Shape("mmlu.csv", both({"Answer": "A"}, {"Answer": "D"}, Question="Which is a fruit?", A="apple", B="brick", C="cloud", D="door"), "choice"),
    "c3": Shape("c3.json", [{"id": "1", "context": ["男：你在哪里？", "女：在家。"], "question": "她在哪里？", "choice": ["家", "公司"], "answer": "家"}], "choice"),
    "chinese choices": Shape("xuan.jsonl", both({"答案": "A"}, {"答案": "B"}, 题目="水是什么颜色？", 选项=["无色", "红色"]), "choice"),
    # ---- texts to write
    "alpaca": Shape("alpaca.json", both({"instruction": "Add", "input": "1 2", "output": "3"}, {"instruction": "Say hi", "input": "", "output": "hi"}), "generation"),
    "alpaca with system": Shape("alpaca2.jsonl", [{"system": "Be kind.", "instruction": "再见", "input": "", "output": "再见！", "history": [["你好", "您好"]]}], "generation"),
    "dolly": Shape("dolly.jsonl", [{"instruction": "Who?", "context": "", "response": "Ann", "category": "qa"}], "generation"),
    "sharegpt": Shape("sharegpt.json", [{"conversations": HUMAN}], "generation"),
    "openai messages": Shape("chat.jsonl", [{"messages": TURNS}], "generation"),
    "tool calls": Shape("tools.jsonl", [{"messages": TOOL, "tools": [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {}}}]}], "generation"),
    "prompt and completion": Shape("pc.jsonl", [{"prompt": "1+1=", "completion": "2"}], "generation"),
    "query and response": Shape("qr.jsonl", [{"query": "你是谁？", "response": "我是助手。", "history": []}], "generation"),
    "source and target": Shape("st.csv", [{"source": "A dog.", "target": "Ein Hund, der über eine grüne Wiese vor dem alten Haus läuft."}], "generation"),
    "gsm8k": Shape("gsm.jsonl", [{"question": "1 and 2?", "answer": "1+2=3\n#### 3"}], "generation"),
    "cnn": Shape("cnn.jsonl", [{"article": "It rained all day.", "highlights": "Rain.", "id": "1"}], "generation"),
    "xsum": Shape("xsum.jsonl", [{"document": "It rained all day.", "summary": "Rain."}], "generation"),
    "samsum": Shape("samsum.jsonl", [{"id": "1", "dialogue": "Ann: Hi!\nBen: Lunch?", "summary": "Ben asks Ann to lunch."}], "generation"),
    "translation": Shape("opus.jsonl", [{"translation": {"en": "A dog.", "zh": "一只狗。"}}], "generation"),
    "messages in csv": Shape("chat.csv", [{"messages": json.dumps(TURNS)}], "generation"),
    "plain text": Shape("poems.txt", "床前明月光\n疑是地上霜\n", "generation"),
    "documents": Shape("docs.jsonl", [{"id": 1, "url": "u", "text": "It rained all day."}], "generation"),
    "chinese instructions": Shape("zhi.csv", [{"指令": "写一句诗", "输入": "", "输出": "春眠不觉晓"}], "generation"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(stories260k: Path) -> HFTokenizer:
    return load_tokenizer(locate(str(stories260k), None, root=stories260k), max_tokens=256)


def test_there_are_many_shapes_and_every_family_has_some():
    assert len(SHAPES) >= 40
    assert {shape.kind for shape in SHAPES.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_recognised_and_read(
    weft: Weft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: HFTokenizer, name: str
):
    shape = SHAPES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / shape.name).write_text(shape.text, encoding="utf-8")
    code, _, err = weft("init", shape.name, "--model", "some/model")
    assert code == 0, err
    ((task, spec),) = load(tmp_path / "recipe.yaml", catalogue()).tasks.items()
    said = spec.model_dump(exclude_defaults=True, exclude={"train"})
    assert said == {"kind": shape.kind, **shape.options}
    rows = read(shape.name, root=tmp_path).rows
    results = FAMILIES[spec.kind].fit(task, spec, rows).encode(rows, tokenizer, Purpose.LEARN)
    assert [one.reason for one in results if isinstance(one, Dropped)] == []


@pytest.mark.parametrize(
    "row",
    [
        {"text": "hello", "speaker": "Anna"},
        {"id": 1, "value": None},
    ],
    ids=["a text and somebody", "nothing"],
)
def test_what_no_family_reads_is_refused_with_its_columns(
    weft: Weft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Row
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    code, _, err = weft("init", "x.jsonl", "--model", "some/model")
    assert code == 5
    assert err.startswith("x.jsonl: must have columns that say what to learn")
    assert f"but has {', '.join(row)}" in err
    assert not (tmp_path / "recipe.yaml").exists()


ASKED = [{"role": "user", "content": "Hi"}]
SAID = {"role": "assistant", "content": "Hello!"}


@pytest.mark.parametrize(
    ("asked", "chosen", "columns"),
    [
        ({"prompt": "Hi"}, "Hello!", "{instruction: prompt, output: chosen}"),
        ({"messages": ASKED}, "Hello!", "{instruction: messages, output: chosen}"),
        ({"messages": [*ASKED, SAID, *ASKED]}, "Hello!", "{instruction: messages, output: chosen}"),
        (
            {"conversations": ASKED},
            {"from": "gpt", "value": "Hi!"},
            "{instruction: conversations, output: chosen}",
        ),
        ({"prompt": ASKED}, [SAID], "{instruction: prompt, output: chosen}"),
        ({"prompt": "Hi"}, [*ASKED, SAID], "{messages: chosen}"),
        ({}, "Human: Hi\n\nAssistant: Hello!", "{text: chosen}"),
    ],
)
def test_preferences_are_refused_by_name_and_the_way_that_is_said_is_one(
    weft: Weft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Row, chosen: object, columns: str
):
    monkeypatch.chdir(tmp_path)
    row = {**asked, "chosen": chosen, "rejected": "Go away."}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    code, _, err = weft("init", "x.jsonl", "--model", "some/model")
    assert code == 5
    assert err.startswith(
        "x.jsonl: must have an answer to learn in each row, but has chosen and rejected ones"
    )
    assert err.endswith(f"kind: generation, columns: {columns}.\n")
    given = dict(pair.split(": ") for pair in columns.strip("{}").split(", "))
    family = FAMILIES["generation"]
    spec = family.spec_type.model_validate({"kind": "generation", "train": ["x.jsonl"], "columns": given})
    rows = [DataRow(row, "x.jsonl:1")]
    task = family.fit("t", spec, rows)
    assert teaches(rows[0], task.config()["columns"])


@pytest.mark.parametrize(("kind", "line"), [("jsonl", 3), ("csv", 4)])
def test_a_bad_row_is_one_error(
    weft: Weft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, line: int
):
    monkeypatch.chdir(tmp_path)
    bad = {"jsonl": '{"text": "a", "label": "x"}\n' * 2 + '{"text": "c\n', "csv": "text,label\na,x\nb,y\nc\n"}
    (tmp_path / f"x.{kind}").write_text(bad[kind], encoding="utf-8")
    code, out, err = weft("init", f"x.{kind}")
    assert (code, out) == (5, "")
    assert err.startswith(f"x.{kind}:{line}: must ")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "recipe.yaml").exists()
