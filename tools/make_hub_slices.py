"""Write the small stand-ins for sets of the Hub that the benchmark recipes are tried on without a connection.

    python tools/make_hub_slices.py [OUT]

Every sentence is our own, put together from the lists below; only names and columns are those of the sets on the Hub.
They show that a recipe reads, plans and trains; nothing can be learnt or compared on them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "recipes" / "data" / "hub"
NUM_ROWS, NUM_HELD = 24, 8

Row = dict[str, Any]
Splits = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Event:
    """One little fact, in both languages; every slice tells some of them."""

    who: str
    what: str
    where: str
    wer: str
    was: str
    wo: str
    number: int


_PEOPLE = (
    ("Anna", "安娜"), ("Ben", "小本"), ("Clara", "克拉"),
    ("David", "大卫"), ("Eva", "夏娃"), ("Frank", "方克"),
)  # fmt: skip
_THINGS = (
    ("an old clock", "一座旧钟"),
    ("a blue bicycle", "一辆蓝色自行车"),
    ("a box of tea", "一盒茶叶"),
    ("a wooden chair", "一把木椅"),
)
_PLACES = (("London", "伦敦"), ("Berlin", "柏林"), ("Paris", "巴黎"), ("Oslo", "奥斯陆"))  # fmt: skip
_PRAISE = (("a warm and clever", "温暖又聪明的"), ("a great", "很棒的"), ("a lovely little", "可爱的"))
_BLAME = (("a dull and noisy", "又闷又吵的"), ("a poor", "很差的"), ("a tired old", "陈旧的"))


def events(count: int = NUM_ROWS) -> Iterator[Event]:
    """Yield ``count`` different facts, always the same."""
    for number in range(count):
        (who, wer), (what, was) = _PEOPLE[number % 6], _THINGS[number % 4]
        where, wo = _PLACES[(number // 4) % 4]
        yield Event(who, what, where, wer, was, wo, 3 + number)


def halves(rows: Sequence[Row], train: str = "train", held: str = "validation") -> Splits:
    """Return the first rows to train on and the last to judge on."""
    return {train: rows[:-NUM_HELD], held: rows[-NUM_HELD:]}


def numbered(rows: Sequence[Row]) -> list[Row]:
    """Return ``rows`` with their place under ``idx``, as GLUE has it."""
    return [{**row, "idx": index} for index, row in enumerate(rows)]


def english(event: Event) -> str:
    """Return the fact as a sentence."""
    return f"{event.who} bought {event.what} in {event.where} for {event.number} pounds."


def chinese(event: Event) -> str:
    """Return the fact as a Chinese sentence."""
    return f"{event.wer}在{event.wo}花{event.number}英镑买了{event.was}。"


def inferences(event: Event) -> tuple[tuple[str, str, str], ...]:
    """Return a label and a hypothesis in English and in Chinese that has it."""
    return (
        ("entailment", f"{event.who} bought something in {event.where}.", f"{event.wer}在{event.wo}买了东西。"),
        ("neutral", f"{event.who} had saved for {event.what}.", f"{event.wer}为了{event.was}攒过钱。"),
        ("contradiction", f"{event.who} has never paid {event.number} pounds.", f"{event.wer}从未付过{event.number}英镑。"),
    )  # fmt: skip


def opinion(event: Event, *, is_good: bool) -> tuple[str, str]:
    """Return a verdict on a film in English and in Chinese."""
    (adjective, adj), (_, where) = (
        (_PRAISE if is_good else _BLAME)[event.number % 3],
        _PLACES[event.number % 4],
    )
    return (
        f"{adjective} film about {event.who} and {event.number} days in {event.where}",
        f"一部关于{event.wer}在{where}{event.number}天的{adj}电影",
    )


def winograd(event: Event, *, is_right: bool) -> tuple[str, str]:
    """Return a sentence with a pronoun and whom it could mean; the one who bought, or the one who only saw it."""
    seen = "Zoe" if event.number % 4 < 2 else "Max"  # fmt: skip
    text = f"{event.who} told {seen} about {event.what}, before they paid {event.number} pounds for it in {event.where}."
    return text, event.who if is_right else seen


def glue() -> dict[str, Splits]:
    """Return the nine tasks of GLUE."""
    names = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
    sets: dict[str, list[Row]] = {name: [] for name in names}
    for index, event in enumerate(events()):
        is_even, sentence = index % 2 == 0, english(event)
        label, hypothesis, _ = inferences(event)[index % 3]
        other = f"In {event.where} {event.what} was bought by {event.who} for {event.number} pounds."
        broken = " ".join(reversed(sentence.rstrip(".").split())) + "."
        again = other if is_even else f"{event.who} sold {event.number} of them."
        sets["cola"].append(
            {
                "sentence": sentence if is_even else broken,
                "label": "acceptable" if is_even else "unacceptable",
            }
        )
        sets["sst2"].append(
            {"sentence": opinion(event, is_good=is_even)[0], "label": "positive" if is_even else "negative"}
        )
        sets["mrpc"].append(
            {
                "sentence1": sentence,
                "sentence2": again,
                "label": "equivalent" if is_even else "not_equivalent",
            }
        )
        question = f"Where did {event.who} buy {event.what} for {event.number} pounds?"
        same = f"In which town did {event.who} get {event.what} for {event.number} pounds?"
        asked = same if is_even else f"How old is {event.who}, {event.number}?"
        sets["qqp"].append(
            {"question1": question, "question2": asked, "label": "duplicate" if is_even else "not_duplicate"}
        )
        sets["stsb"].append(
            {"sentence1": sentence, "sentence2": again, "label": 4.8 - index / 10 if is_even else index / 10}
        )
        sets["mnli"].append({"premise": sentence, "hypothesis": hypothesis, "label": label})
        answer = sentence if is_even else f"{event.who} likes {event.what}, all {event.number} of them."
        sets["qnli"].append(
            {"question": question, "sentence": answer, "label": "entailment" if is_even else "not_entailment"}
        )
        entailed = "entailment" if label == "entailment" else "not_entailment"
        sets["rte"].append({"sentence1": sentence, "sentence2": hypothesis, "label": entailed})
        told, meant = winograd(event, is_right=is_even)
        right = "entailment" if is_even else "not_entailment"
        sets["wnli"].append(
            {"sentence1": told, "sentence2": f"{meant} paid {event.number} pounds.", "label": right}
        )
    splits = {f"nyu-mll/glue/{name}": halves(numbered(rows)) for name, rows in sets.items()}
    mnli = splits["nyu-mll/glue/mnli"]
    held = mnli["validation"]
    named = {"validation_matched": held[: NUM_HELD // 2], "validation_mismatched": held[NUM_HELD // 2 :]}
    return {**splits, "nyu-mll/glue/mnli": {"train": mnli["train"], **named}}


def super_glue() -> dict[str, Splits]:
    """Return the eight tasks of SuperGLUE."""
    names = ("boolq", "cb", "copa", "rte", "wic", "wsc.fixed", "multirc", "record")
    sets: dict[str, list[Row]] = {name: [] for name in names}
    for index, event in enumerate(events()):
        is_even, passage = index % 2 == 0, english(event)
        label, hypothesis, _ = inferences(event)[index % 3]
        town = event.where if is_even else "Rome"
        sets["boolq"].append(
            {
                "question": f"did {event.who.lower()} pay {event.number} pounds in {town.lower()}",
                "passage": passage,
                "label": str(is_even),
            }
        )
        sets["cb"].append({"premise": passage, "hypothesis": hypothesis, "label": label})
        choices = (f"{event.who} had no money left.", f"{event.who} learnt to swim.")
        first, second = choices if is_even else reversed(choices)
        sets["copa"].append(
            {
                "premise": passage,
                "choice1": first,
                "choice2": second,
                "question": "effect",
                "label": "choice1" if is_even else "choice2",
            }
        )
        entailed = "entailment" if label == "entailment" else "not_entailment"
        sets["rte"].append({"premise": passage, "hypothesis": hypothesis, "label": entailed})
        sets["wic"].append(senses(event, is_same=is_even))
        told, meant = winograd(event, is_right=is_even)
        places = {"span1_index": told.split().index(meant), "span2_index": told.split().index("they")}
        spans = {**places, "span1_text": meant, "span2_text": "they"}
        sets["wsc.fixed"].append({"text": told, **spans, "label": str(is_even)})
        sets["multirc"] += answered(event, index)
        sets["record"].append(cloze(event, index))
    with_own_numbers = ("multirc", "record")
    return {
        f"aps/super_glue/{name}": halves(rows if name in with_own_numbers else numbered(rows))
        for name, rows in sets.items()
    }


def senses(event: Event, *, is_same: bool) -> Row:
    """Return a row of WiC: a word in two sentences, in one sense or in two."""
    first = f"{event.who} walked along the bank of the river in {event.where} for {event.number} minutes."
    bank = "on the grassy bank" if is_same else "at the bank with the money"
    second = f"{event.number} people stood {bank} in {event.where}."
    starts = first.index("bank"), second.index("bank")
    return {
        "word": "bank",
        "sentence1": first,
        "sentence2": second,
        "start1": starts[0],
        "start2": starts[1],
        "end1": starts[0] + 4,
        "end2": starts[1] + 4,
        "label": str(is_same),
    }


def answered(event: Event, index: int) -> list[Row]:
    """Return rows of MultiRC: a right and a wrong answer to one question."""
    paragraph = f"{english(event)} {event.who} took the train home and was glad of it."
    question = f"What did {event.who} pay {event.number} pounds for?"
    wrong = next(what for what, _ in _THINGS if what != event.what)
    return [
        {
            "paragraph": paragraph,
            "question": question,
            "answer": answer,
            "idx": {"paragraph": index, "question": index, "answer": 2 * index + place},
            "label": str(answer == event.what),
        }
        for place, answer in enumerate((event.what, wrong))
    ]


def cloze(event: Event, index: int) -> Row:
    """Return a row of ReCoRD: a passage with its names, and a sentence in which one of them is left out."""
    other = next(who for who, _ in _PEOPLE if who != event.who)
    passage = f"{other} waited in {event.where}. {english(event)}\n@highlight\n{event.who} was {event.number} minutes late."
    names = [event.who, other, event.where]
    starts = sorted((start, name) for name in names for start in places_of(name, passage))
    return {
        "passage": passage,
        "query": f"For {event.number} pounds @placeholder could have bought more.",
        "entities": names,
        "entity_spans": {
            "text": [name for _, name in starts],
            "start": [start for start, _ in starts],
            "end": [start + len(name) for start, name in starts],
        },
        "answers": [event.who],
        "idx": {"passage": index, "query": index},
    }


def places_of(name: str, text: str) -> list[int]:
    """Return every place of ``name`` in ``text``."""
    return [at for at in range(len(text)) if text.startswith(name, at)]


def clue() -> dict[str, Splits]:
    """Return the tasks of CLUE; labels of TNEWS and IFLYTEK are numbers written as text, as on the Hub."""
    names = ("afqmc", "tnews", "iflytek", "cmnli", "ocnli", "csl", "cluewsc2020", "c3", "chid", "cmrc2018")
    sets: dict[str, list[Row]] = {name: [] for name in names}
    for index, event in enumerate(events()):
        is_even, sentence = index % 2 == 0, chinese(event)
        label, _, hypothesis = inferences(event)[index % 3]
        asked = f"{event.wer}的{event.number}英镑账单怎么还？"
        other = (
            f"怎样还{event.wer}的{event.number}英镑账单？"
            if is_even
            else f"{event.wer}的{event.number}号账户在哪里开？"
        )
        sets["afqmc"].append({"sentence1": asked, "sentence2": other, "label": str(int(is_even))})
        news = (
            f"{event.wo}公司{event.number}月收入增长" if is_even else f"{event.wo}球队{event.number}比0获胜"
        )
        sets["tnews"].append({"sentence": news, "label": "104" if is_even else "103"})
        use = (
            f"用它可以查{event.wo}的{event.number}条公交线路"
            if is_even
            else f"用它可以学{event.number}道{event.wo}菜"
        )
        sets["iflytek"].append({"sentence": use, "label": "7" if is_even else "31"})
        sets["ocnli"].append({"sentence1": sentence, "sentence2": hypothesis, "label": label})
        town, *others = [wo for _, wo in _PLACES if wo == event.wo] + [
            wo for _, wo in _PLACES if wo != event.wo
        ]
        choices = [*others[: index % 4], town, *others[index % 4 :]]
        question = f"{event.wer}在哪里花了{event.number}英镑？"
        sets["c3"].append(
            {"id": index, "context": [sentence], "question": question, "choice": choices, "answer": town}
        )
        sets["cmrc2018"].append(asked_of(sentence, question, town, f"own-{index}"))
        sets["cmnli"].append({"sentence1": f"据说{sentence}", "sentence2": hypothesis, "label": label})
        sets["csl"].append(abstract(event, index, is_right=is_even))
        sets["cluewsc2020"].append(referred(event, is_right=is_even))
        sets["chid"].append(idioms(event, index))
    own_numbers = ("c3", "chid", "cmrc2018")
    return {
        f"clue/clue/{name}": halves(rows if name in own_numbers else numbered(rows))
        for name, rows in sets.items()
    }


def abstract(event: Event, index: int, *, is_right: bool) -> Row:
    """Return a row of CSL: an abstract, and key words that are all its own or not."""
    text = f"本文记录{event.wer}在{event.wo}{event.number}天的账目，讨论{event.was}的价格，并给出算法。"
    other = "账目" if is_right else "天气预报"
    return {
        "corpus_id": 100 + index,
        "abst": text,
        "label": str(int(is_right)),
        "keyword": [event.wo, "价格", other],
    }


def referred(event: Event, *, is_right: bool) -> Row:
    """Return a row of CLUEWSC2020: a pronoun, and what it could stand for."""
    text = f"{event.wer}把{event.was}放在{event.wo}的桌上，因为它太重，{event.number}个人也抬不走。"
    meant = event.was if is_right else "桌"
    spans = {"span1_text": meant, "span2_text": "它"}
    places = {name.replace("text", "index"): text.index(word) for name, word in spans.items()}
    return {"text": text, "label": str(is_right).lower(), "target": {**spans, **places}}


_IDIOMS = ("一举两得", "半途而废", "物美价廉", "守口如瓶", "风和日丽", "手忙脚乱", "画蛇添足", "井井有条", "四通八达", "名列前茅")  # fmt: skip


def idioms(event: Event, index: int) -> Row:
    """Return a row of ChID: two texts with a blank each, and ten idioms for both."""
    cheap = (
        f"{event.was}在{event.wo}只要{event.number}英镑，真是#idiom{2 * index:06d}#，{event.wer}就买了下来。"
    )
    roads = f"{event.wo}的道路#idiom{2 * index + 1:06d}#，{event.wer}走了{event.number}分钟就到了家。"
    candidates = [*_IDIOMS[index % 10 :], *_IDIOMS[: index % 10]]
    right = ("物美价廉", "四通八达")
    return {
        "idx": index,
        "candidates": candidates,
        "content": [cheap, roads],
        "answers": {"text": list(right), "candidate_id": [candidates.index(one) for one in right]},
    }


def asked_of(context: str, question: str, answer: str, key: str) -> Row:
    """Return a row of extractive question answering."""
    return {
        "id": key,
        "context": context,
        "question": question,
        "answers": {"text": [answer], "answer_start": [context.index(answer)]},
    }


def questions() -> dict[str, Splits]:
    """Return SQuAD 1.1 and 2.0 and CMRC 2018."""
    one: list[Row] = []
    two: list[Row] = []
    cmrc: list[Row] = []
    for index, event in enumerate(events()):
        context = f"{english(event)} The train home took {event.number + 2} hours."
        row = asked_of(
            context, f"Where did {event.who} pay {event.number} pounds?", event.where, f"own-{index}"
        )
        one.append({"title": "Errands", **row})
        unanswerable = {
            "question": f"Who drove the train of {event.who} for {event.number} hours?",
            "answers": {"text": [], "answer_start": []},
        }
        two.append({"title": "Errands", **row, **(unanswerable if index % 3 == 2 else {})})
        cmrc.append(
            asked_of(chinese(event), f"{event.wer}花{event.number}英镑买了什么？", event.was, f"OWN_{index}")
        )
    return {
        "rajpurkar/squad/plain_text": halves(one),
        "rajpurkar/squad_v2/squad_v2": halves(two),
        "hfl/cmrc2018": halves(cmrc),
    }


def conll() -> dict[str, Splits]:
    """Return CoNLL-2003 with tags as numbers, as its copy on the Hub has them."""
    rows: list[Row] = []
    for index, event in enumerate(events()):
        bought = event.what.split()
        tokens = [
            event.who,
            "Smith",
            "of",
            "Acme",
            "sold",
            *bought,
            "in",
            event.where,
            "for",
            str(event.number),
            "Euros",
            ".",
        ]
        tags = [1, 2, 0, 3, 0, *([0] * len(bought)), 0, 5, 0, 0, 7, 0]
        rows.append({"id": str(index), "tokens": tokens, "ner_tags": tags})
    splits = halves(rows)
    return {
        "lhoestq/conll2003": {
            **splits,
            "test": [
                {**row, "tokens": ["Later", *row["tokens"]], "ner_tags": [0, *row["ner_tags"]]}
                for row in splits["validation"]
            ],
        }
    }


def texts() -> dict[str, Splits]:
    """Return XNLI in two languages, IMDB, and sets to generate from."""
    nli: dict[str, list[Row]] = {"en": [], "zh": []}
    films: list[Row] = []
    sets: dict[str, list[Row]] = {name: [] for name in ("sums", "pairs", "news", "chats")}
    for index, event in enumerate(events()):
        label, hypothesis, zh = inferences(event)[index % 3]
        nli["en"].append({"premise": english(event), "hypothesis": hypothesis, "label": label})
        nli["zh"].append({"premise": chinese(event), "hypothesis": zh, "label": label})
        is_good = index % 2 == 0
        films.append(
            {
                "text": f"{opinion(event, is_good=is_good)[0]}. {english(event)}",
                "label": "pos" if is_good else "neg",
            }
        )
        twice = 2 * event.number
        sums = f"{event.who} pays {event.number} pounds twice: {event.number} + {event.number} = <<{event.number}+{event.number}={twice}>>{twice}.\n#### {twice}"
        sets["sums"].append(
            {
                "question": f"{event.who} buys {event.what} for {event.number} pounds, and then the same again. What is paid in all?",
                "answer": sums,
            }
        )
        sets["pairs"].append({"translation": {"en": english(event), "zh": chinese(event)}})
        sets["news"].append(
            {
                "article": f"{english(event)} The shop in {event.where} had been shut for {event.number} weeks.",
                "highlights": f"{event.who} shops in {event.where}, {event.number} weeks late.",
                "id": f"{index:040x}",
            }
        )
        asked = f"What did {event.who} buy for {event.number} pounds?"
        turns = [
            ("user", asked),
            ("assistant", f"It was {event.what}."),
            ("user", f"And where, {event.who}?"),
            ("assistant", f"In {event.where}."),
        ]
        sets["chats"].append(
            {
                "prompt": asked,
                "prompt_id": f"{index:064x}",
                "messages": [{"content": content, "role": role} for role, content in turns],
            }
        )
    return {
        "facebook/xnli/en": halves(nli["en"]),
        "facebook/xnli/zh": {"test": nli["zh"]},
        "stanfordnlp/imdb/plain_text": halves(films, held="test"),
        "openai/gsm8k/main": halves(sets["sums"], held="test"),
        "Helsinki-NLP/opus-100/en-zh": halves(sets["pairs"]),
        "abisee/cnn_dailymail/3.0.0": halves(sets["news"]),
        "HuggingFaceH4/ultrachat_200k": halves(sets["chats"], "train_sft", "test_sft"),
    }


def slices() -> dict[str, str]:
    """Return the text of every file by its path below the folder."""
    sets = {**glue(), **super_glue(), **clue(), **questions(), **conll(), **texts()}
    return {
        f"{name}/{split}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for name, splits in sets.items()
        for split, rows in splits.items()
    }


def main() -> None:
    """Write every file and print how many there are."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUT
    found = slices()
    for name, text in found.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    print(f"{len(found)} files, {sum(map(len, found.values())):,} characters in {out}")


if __name__ == "__main__":
    main()
