"""Write the data of ``recipes/customer_service.yaml``.

    python tools/make_service_data.py DATA_ROOT [OUT]

``service.*.jsonl`` are our own rows, put together from the sentences below in Chinese and English: a customer's words with
intent, mood and slots, the reply, and the whole exchange with its summary. ``banking``, ``talk`` and ``general`` are cut
from ``DATA_ROOT/{nlupp,crosswoz_subset,clinc150}``. What is chosen follows from a hash of the text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Any

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "recipes" / "data" / "service"
SIZES = {"service": (96, 36, 36), "general": (300, 60, 60), "banking": (200, 40, 40), "talk": (60, 15, 15)}
GENERAL_INTENTS = "order_status credit_limit bill_due report_fraud greeting thank_you goodbye repeat".split()
LEAST_ROWS = 40  # that an intent must have to be kept
NUM_TURNS = 4  # of a conversation that are kept

Row = dict[str, Any]

_WORD = re.compile(r"[A-Za-z0-9']+|[^\sA-Za-z0-9']")


@dataclass(frozen=True)
class Language:
    """The sentences of one language.

    Attributes:
        asks: by intent, what a customer may say.
        replies: by intent, what the reply says after its opening.
        moods: by mood, the words around what is asked, the opening of the reply, and how a summary calls the customer.
        slots: by slot, what may stand in its place.
        summaries: by intent.
        speakers: customer and agent.
        between: what stands between two sentences.
    """

    asks: dict[str, tuple[str, ...]]
    replies: dict[str, str]
    moods: dict[str, tuple[str, str, str]]
    slots: dict[str, tuple[str, ...]]
    summaries: dict[str, str]
    speakers: tuple[str, str]
    between: str


CHINESE = Language(
    asks={
        "物流": (
            "我{date}买的{product}到哪里了？订单号是{order}。",
            "订单{order}的{product}怎么还没送到{city}？",
        ),
        "退货": ("{product}不合适，我想退货，订单{order}。", "{date}收到的{product}可以退吗？"),
        "换货": (
            "{product}有划痕，请给我换一个，订单号{order}。",
            "我想把订单{order}里的{product}换成别的颜色。",
        ),
        "发票": ("请给订单{order}开一张发票。", "{date}买的{product}能补开发票吗？"),
        "地址": ("请把订单{order}的地址改到{city}。", "我搬到{city}了，{product}能送到新地址吗？"),
        "价格": ("{product}现在多少钱？送到{city}要运费吗？", "{date}{product}还有优惠吗？"),
    },
    replies={
        "物流": "您的{product}正在路上，有消息会马上通知您。",
        "退货": "{product}可以在七天内退货，我这就为您登记。",
        "换货": "我们会给您换一件新的{product}，请保留包装。",
        "发票": "发票会在一天内发到您的邮箱。",
        "地址": "地址已经为您改好了，请留意短信。",
        "价格": "{product}的价格以商品页面为准，今天免运费。",
    },
    moods={
        "生气": ("你们怎么回事！{0}太让人失望了！", "非常抱歉给您带来不便。", "生气"),
        "担心": ("我有点担心，{0}不会出问题吧？", "请您放心。", "担心"),
        "满意": ("上次的服务很好，谢谢。{0}", "感谢您的夸奖。", "满意"),
        "平静": ("{0}", "您好。", "平静"),
    },
    slots={
        "product": ("蓝色雨伞", "保温杯", "无线耳机", "儿童书包", "台灯", "羊毛围巾"),
        "order": ("A1024", "B3307", "C5519", "D8862", "E4470"),
        "city": ("成都", "南京", "厦门", "西安"),
        "date": ("昨天", "上周三", "三月五日", "前天"),
    },
    summaries={
        "物流": "客户{mood}地询问{product}的物流。",
        "退货": "客户{mood}地要求退{product}，已登记。",
        "换货": "客户{mood}地要求换{product}，同意更换。",
        "发票": "客户{mood}地要求开发票，一天内发出。",
        "地址": "客户{mood}地要求改地址，已修改。",
        "价格": "客户{mood}地询问{product}的价格，今天免运费。",
    },
    speakers=("客户：", "客服："),
    between="",
)
ENGLISH = Language(
    asks={
        "物流": ("Where is the {product} I bought {date}? The order is {order}.", "Order {order} has not come to {city} yet, has it left?"),
        "退货": ("The {product} does not fit, I want to send back order {order}.", "Can I return the {product} that came {date}?"),
        "换货": ("The {product} is scratched, please exchange it, order {order}.", "Could the {product} of order {order} come in another colour?"),
        "发票": ("Please send me an invoice for order {order}.", "I need an invoice for the {product} I bought {date}."),
        "地址": ("Please change the address of order {order} to {city}.", "I moved to {city}, can the {product} go to the new address?"),
        "价格": ("How much is the {product}, and what is the delivery to {city}?", "Is the {product} still cheaper {date}?"),
    },
    replies={
        "物流": "Your {product} is on its way and we will write when it arrives.",
        "退货": "You can return the {product} within seven days and I have noted it.",
        "换货": "We will send you a new {product}, please keep the box.",
        "发票": "The invoice will be in your mail within a day.",
        "地址": "The address is changed, please look at our message.",
        "价格": "The price of the {product} is on its page and delivery is free today.",
    },
    moods={
        "生气": ("This is a disgrace! {0} I am very disappointed.", "We are very sorry for the trouble.", "angrily"),
        "担心": ("I am a little worried. {0} I hope nothing is wrong.", "Please do not worry.", "anxiously"),
        "满意": ("Thank you for the good service last time. {0}", "Thank you for your kind words.", "happily"),
        "平静": ("{0}", "Hello.", "calmly"),
    },
    slots={
        "product": ("blue umbrella", "flask", "headset", "school bag", "desk lamp", "wool scarf"),
        "order": ("A1024", "B3307", "C5519", "D8862", "E4470"),
        "city": ("Leeds", "York", "Bath", "Derby"),
        "date": ("yesterday", "last Monday", "on 5 March", "this week"),
    },
    summaries={
        "物流": "The customer {mood} asks where the {product} is.",
        "退货": "The customer {mood} returns the {product}; noted.",
        "换货": "The customer {mood} exchanges the {product}; agreed.",
        "发票": "The customer {mood} asks for an invoice; within a day.",
        "地址": "The customer {mood} changes the address; done.",
        "价格": "The customer {mood} asks for the price of the {product}; free delivery today.",
    },
    speakers=("Customer: ", "Agent: "),
    between=" ",
)  # fmt: skip


def rank(text: str) -> str:
    """Return a key to sort ``text`` by: random, but the same everywhere."""
    return hashlib.sha256(text.casefold().encode()).hexdigest()


def tagged(template: str, values: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the words of ``template`` filled, and their BIO tags: a slot's words have its name.

    Example:
        >>> tagged("to {city}.", {"city": "New York"})
        (['to', 'New', 'York', '.'], ['O', 'B-city', 'I-city', 'O'])
    """
    words: list[str] = []
    tags: list[str] = []
    for literal, field, _, _ in Formatter().parse(template):
        plain = _WORD.findall(literal)
        words += plain
        tags += ["O"] * len(plain)
        for place, word in enumerate(_WORD.findall(values[field]) if field else ()):
            words.append(word)
            tags.append(f"{'I' if place else 'B'}-{field}")
    return words, tags


def service_rows(language: Language) -> Iterator[Row]:
    """Yield every row that the sentences of ``language`` give."""
    names = list(language.slots)
    for (intent, asks), (mood, (around, opening, called)) in product(
        language.asks.items(), language.moods.items()
    ):
        for ask, choice in product(asks, product(*language.slots.values())):
            values = dict(zip(names, choice, strict=True))
            template = around.replace("{0}", ask)
            words, tags = tagged(template, values)
            text = template.format(**values)
            reply = opening + language.between + language.replies[intent].format(**values)
            customer, agent = language.speakers
            yield {
                "text": text,
                "intent": intent,
                "mood": mood,
                "tokens": words,
                "tags": tags,
                "reply": reply,
                "dialogue": f"{customer}{text}\n{agent}{reply}",
                "summary": language.summaries[intent].format(mood=called, **values),
            }


def in_turn(language: Language) -> list[Row]:
    """Return the rows of ``language``, each text once, every intent with every mood in turn."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in service_rows(language):
        groups.setdefault((row["intent"], row["mood"]), {}).setdefault(rank(row["text"]), row)
    ordered = [[group[key] for key in sorted(group)] for group in groups.values()]
    return [row for level in zip(*ordered, strict=False) for row in level]


def own_splits(sizes: Sequence[int]) -> dict[str, list[Row]]:
    """Return train, dev and test rows, two of three in Chinese; few rows still have every intent and mood."""
    chinese, english = in_turn(CHINESE), in_turn(ENGLISH)
    splits: dict[str, list[Row]] = {}
    for split, size in reversed(list(zip(("train", "dev", "test"), sizes, strict=True))):
        num_chinese = size * 2 // 3
        num_english = size - num_chinese
        splits[split] = chinese[:num_chinese] + english[:num_english]
        chinese, english = chinese[num_chinese:], english[num_english:]
    return splits


def general_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of everyday intents near to service."""
    return [{"text": row["text"], "intent": row["label"]} for row in rows if row["label"] in GENERAL_INTENTS]


def banking_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the rows on banking with their intents, of which there may be several; rare intents are left out."""
    banking = [row for row in rows if row["domain"] == "banking"]
    counts = Counter(label for row in banking for label in row["labels"])
    return [
        {"text": row["text"], "intents": row["labels"]}
        for row in banking
        if all(counts[label] >= LEAST_ROWS for label in row["labels"])
    ]


def talk_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the beginnings of conversations, each up to an answer."""
    found: list[Row] = []
    for row in rows:
        turns = row["messages"][:NUM_TURNS]
        if len(turns) == NUM_TURNS and turns[-1]["role"] == "assistant":
            found.append({"messages": turns})
    return found


def cut(rows: Sequence[Row], sizes: Sequence[int]) -> dict[str, list[Row]]:
    """Return train, dev and test rows; rows of equal questions are used once.

    Raises:
        SystemExit: there are too few rows.
    """
    by_question = {rank(question(row)): row for row in rows}
    ordered = [by_question[key] for key in sorted(by_question)]
    if len(ordered) < sum(sizes):
        raise SystemExit(f"{sum(sizes)} rows must be there, but there are {len(ordered)}.")
    splits: dict[str, list[Row]] = {}
    for split, size in zip(("train", "dev", "test"), sizes, strict=True):
        splits[split], ordered = ordered[:size], ordered[size:]
    return splits


def question(row: Row) -> str:
    """Return what a row asks, without its answer."""
    return row["text"] if "text" in row else json.dumps(row["messages"][:-1], ensure_ascii=False)


def lines(path: Path) -> list[Row]:
    """Return the rows of a file of JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Write the files and print their sizes."""
    parser = argparse.ArgumentParser(description="Write the data of the customer-service recipe.")
    parser.add_argument("data_root", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=DEFAULT_OUT)
    args = parser.parse_args()
    cuts: dict[str, tuple[str, Callable[[Iterable[Row]], list[Row]]]] = {
        "general": ("clinc150", general_rows),
        "banking": ("nlupp", banking_rows),
        "talk": ("crosswoz_subset", talk_rows),
    }
    found = {"service": own_splits(SIZES["service"])}
    for name, (folder, chosen) in cuts.items():
        found[name] = cut(chosen(lines(args.data_root / folder / "train.jsonl")), SIZES[name])
    args.out.mkdir(parents=True, exist_ok=True)
    for name, splits in found.items():
        for split, kept in splits.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            (args.out / f"{name}.{split}.jsonl").write_text(text, encoding="utf-8")
            print(f"{name}.{split}: {len(kept)} rows, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
