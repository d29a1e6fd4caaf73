"""Which column plays which role: as the recipe says, or by the names that data sets use in the wild."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from weft.core.example import Row
from weft.data.joined import check_joined, held, is_joined
from weft.data.table import column_names
from weft.errors import DataError, nearest

# Most usual name first. A role that also answers to another role's names (`question` is a text here and an
# instruction there) has them last.
TEXT: Final = (
    *(
        "text",
        "sentence",
        "content",
        "review",
        "query",
        "question",
        "utterance",
        "comment",
        "comment_text",
        "document",
        "body",
    ),
    *(
        "message",
        "title",
        "text1",
        "sentence1",
        "question1",
        "premise",
        "text_a",
        "sentence_a",
        "query1",
        "input",
    ),
    *(
        "文本",
        "句子",
        "内容",
        "评论",
        "正文",
        "问题",
        "标题",
        "文本1",
        "句子1",
        "问题1",
        "前提",
        "文本一",
        "句子一",
    ),
)
PAIR: Final = (
    *("text2", "sentence2", "hypothesis", "question2", "text_b", "sentence_b", "query2", "text_pair"),
    *("文本2", "句子2", "问题2", "假设", "文本二", "句子二"),
)
LABEL: Final = (
    *(
        "label",
        "labels",
        "intent",
        "category",
        "class",
        "sentiment",
        "target",
        "topic",
        "emotion",
        "gold_label",
    ),
    *("label_text", "categories", "intents", "标签", "类别", "分类", "意图", "情感", "类型"),
)
SCORE: Final = (
    *(
        "score",
        "similarity",
        "similarity_score",
        "relatedness_score",
        "rating",
        "stars",
        "value",
        "target",
        "label",
    ),
    *("labels", "分数", "得分", "评分", "相似度", "标签"),
)
RATING: Final = (
    *(
        "rating",
        "stars",
        "star_rating",
        "star",
        "score",
        "grade",
        "level",
        "label",
        "labels",
        "target",
        "overall",
    ),
    *("评分", "星级", "等级", "评级", "分数", "得分", "打分", "标签"),
)
TOKENS: Final = ("tokens", "words", "token", "word", "词", "词语", "分词", "字")
TAGS: Final = (
    "tags",
    "ner_tags",
    "ner",
    "tag",
    "slots",
    "bio",
    "labels",
    "label",
    "标注",
    "标签",
    "实体标签",
)
SPANS: Final = ("entities", "spans", "annotations", "entity_list", "ner_spans", "实体", "实体列表")
INSTRUCTION: Final = (
    *(
        "instruction",
        "prompt",
        "query",
        "question",
        "problem",
        "source",
        "article",
        "document",
        "input",
        "text",
        "dialogue",
        "dialog",
    ),
    *("指令", "提示", "问题", "提问", "原文", "输入"),
)
INPUT: Final = ("input", "context", "输入", "上下文")
OUTPUT: Final = (
    *("output", "completion", "response", "target", "answer", "solution", "summary", "highlights", "answers"),
    *("targets", "输出", "回答", "答案", "回复", "译文", "摘要"),
)
MESSAGES: Final = ("messages", "conversations", "conversation", "dialogue", "dialog", "对话", "消息")
CONTEXT: Final = (
    *("context", "context_text", "passage", "paragraph", "document", "article", "story", "text"),
    *("上下文", "文章", "段落", "原文", "材料", "篇章"),
)
QUESTION: Final = ("question", "query_text", "query", "问题", "提问", "问句")
ANSWERS: Final = ("answers", "answer", "gold_answers", "答案", "回答", "参考答案")
ANSWER_START: Final = ("answer_start", "answer_starts", "start", "答案起点", "答案位置", "起始位置")
IMPOSSIBLE: Final = ("is_impossible", "impossible", "不可回答", "无答案")
SYSTEM: Final = ("system", "system_prompt", "系统", "系统提示")
HISTORY: Final = ("history", "历史", "历史对话")
TOOLS: Final = ("tools", "functions", "工具")
TRANSLATION: Final = ("translation", "翻译")
PLAIN: Final = ("text", "content", "document", "body", "文本", "正文", "内容")  # learnt as a whole


@dataclass(frozen=True, slots=True)
class Role:
    """What a task wants of a row.

    Attributes:
        name: in a recipe's ``columns``.
        aliases: column names to look for, the likeliest first.
        required: whether there must be a column.
        is_text: whether a recipe may make it of several columns (``weft.data.joined``).
    """

    name: str
    aliases: tuple[str, ...]
    required: bool = True
    is_text: bool = False


def resolve(
    rows: Sequence[Row], roles: Sequence[Role], given: Mapping[str, str], *, what: str
) -> dict[str, str | None]:
    """Return the column of each role, None for an optional one without; no two roles share a column.

    A column that ``given`` names is taken, and so are those of a text that is made of several. The required roles choose
    next, in order, then the optional ones: the first alias that is a column, letter for letter, otherwise without regard
    to case, blanks and hyphens.

    Args:
        rows: the rows that the columns are looked for in; any of them may have a column.
        roles: what is wanted, the most important first.
        given: column by role, from the recipe; of a text also a template, which stays one.
        what: whose columns these are, for messages.

    Raises:
        DataError: ``given`` names no role or no column, or one column twice; a required role finds none.

    Example:
        >>> rows = [Row({"Review": "good", "标签": "pos"}, "a.csv:2")]
        >>> resolve(rows, [Role("text", TEXT), Role("label", LABEL)], {}, what="a.csv")
        {'text': 'Review', 'label': '标签'}
    """
    columns = column_names(rows)
    _check_given(given, roles, rows, what)
    found: dict[str, str | None] = dict(given)
    taken = held(column for column in given.values() if is_joined(column, columns))
    for role in sorted(roles, key=lambda role: not role.required):
        if role.name in found:
            continue
        free = [column for column in columns if column not in found.values() and column not in taken]
        column = _first(role.aliases, free)
        if column is None and role.required:
            raise DataError(
                f"{what}: must have a column for {role.name}, but the columns are {', '.join(columns) or 'none'}. "
                f"Say which with columns: {{{role.name}: <column>}}; known names are {', '.join(role.aliases[:8])}, ..."
            )
        found[role.name] = column
    return {role.name: found[role.name] for role in roles}


def _check_given(given: Mapping[str, str], roles: Sequence[Role], rows: Sequence[Row], what: str) -> None:
    columns = column_names(rows)
    texts = {known.name for known in roles if known.is_text}
    for role, column in given.items():
        if role not in {known.name for known in roles}:
            raise DataError(
                f"{what}: columns must name a role, but names {role}. {nearest(role, (r.name for r in roles))}"
            )
        if is_joined(column, columns):
            where = f"{rows[0].where}: {what}" if rows else what
            if role not in texts:
                raise DataError(
                    f"{what}: the column for {role} must be one column, but {column!r} is made of several. Only texts can be: "
                    f"{', '.join(sorted(texts)) or 'none of this task'}."
                )
            check_joined(column, columns, role=role, what=where)
        elif column not in columns:
            raise DataError(
                f"{what}: the column for {role} must exist, but {column} does not. {nearest(column, columns)}"
            )
        others = [other for other, same in given.items() if same == column and other != role]
        if others:
            raise DataError(
                f"{what}: {role} and {others[0]} must have columns of their own, but both name {column}."
            )


def _first(aliases: Iterable[str], columns: Sequence[str]) -> str | None:
    """Return the column of the first alias: exact names before folded ones."""
    aliases = tuple(aliases)
    for alias in aliases:
        if alias in columns:
            return alias
    folded = {_fold(column): column for column in reversed(columns)}  # of two alike the first stays
    return next((folded[_fold(alias)] for alias in aliases if _fold(alias) in folded), None)


def _fold(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")
