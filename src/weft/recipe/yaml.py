"""YAML 1.2 text to a ``Document``: plain values only, with lines, within caps, and duplicate keys named.

Own construction on ruamel's composer: a constructor would run tags and forget how a number was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from weft.errors import RecipeError
from weft.recipe.document import Document, Mark, Path, Problem, shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 24
MAX_NODES = 50_000

_PREFIX = "tag:yaml.org,2002:"
_NUMBER = re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)?")
_HINTS = (
    (r"\t", "Indent with blanks, not tabs."),
    ("but got '['", "Put quotes around a value that contains [ or ], such as 'data.csv[:500]'."),
    ("mapping values are not allowed", "Put quotes around a value that contains ': '."),
    (
        "expected '<document start>'",
        "Put quotes around a value that starts with { or [ and goes on behind it.",
    ),
    ("expected <block end>", "Check the indentation of this line and the one before."),
)


def parse(text: str, name: str) -> Document:
    """Return the values of ``text`` with their lines; an empty text gives an empty mapping.

    Booleans stay text as written (``true``), because only the field that takes them knows whether it wants a
    truth value or a label; numbers keep their text beside them for the same reason.

    Args:
        text: one YAML 1.2 document.
        name: the file's name in messages.

    Raises:
        RecipeError: not YAML, or YAML with tags, merge keys, several documents, or beyond the caps.
    """
    text = text.removeprefix("\ufeff")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise RecipeError([f"{name}: must be at most {MAX_BYTES:,} bytes, but is longer. Is this a recipe?"])
    try:
        _check_events(YAML(typ="safe", pure=True).parse(text), name)
        root = YAML(typ="safe", pure=True).compose(text)
    except YAMLError as error:
        raise RecipeError([_syntax_message(error, name)]) from None
    if root is None:
        return Document({}, {(): Mark(name)})
    reader = _Reader(name)
    data = reader.value(root, ())
    return Document(data, reader.marks, tuple(reader.problems))


def decode(raw: bytes, name: str) -> str:
    """Return the text of a recipe file.

    Raises:
        RecipeError: not UTF-8.
    """
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in raw[:4]:
        raise RecipeError([f"{name}: must be UTF-8 text, but is UTF-16 or UTF-32. Save it as UTF-8."])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        found = f"byte 0x{raw[error.start]:02x} is not"
        raise RecipeError([f"{name}:{line}: must be UTF-8 text, but {found}. Save it as UTF-8."]) from None


def _check_events(events: Iterator[Event], name: str) -> None:
    """Refuse what would be unsafe or ambiguous to compose; the composer recurses, so depth is checked here."""
    depth = nodes = documents = 0
    for event in events:
        line = event.start_mark.line + 1
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        nodes += isinstance(event, NodeEvent)
        documents += isinstance(event, DocumentStartEvent)
        message = _event_mistake(event)
        if depth > MAX_DEPTH:
            message = f"must nest at most {MAX_DEPTH} levels, but nests deeper. Write it flatter."
        elif nodes > MAX_NODES:
            message = f"must hold at most {MAX_NODES:,} values, but holds more. Is this a recipe?"
        elif documents > 1:
            message = "must hold one document, but a second one starts here. Use one file for each recipe."
        if message:
            raise RecipeError([f"{name}:{line}: {message}"])


def _event_mistake(event: Event) -> str | None:
    if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
        return f"must hold plain values, but has the tag {str(event.tag)!r}. Remove the tag."
    if isinstance(event, DocumentStartEvent) and event.version not in (None, (1, 2)):
        return "must be YAML 1.2, but the %YAML line says otherwise. Remove that line."
    return None


class _Reader:
    """Nodes to values; counts what aliases repeat, so that a small text cannot become a large tree."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.marks: dict[Path, Mark] = {}
        self.problems: list[Problem] = []
        self._num_nodes = 0

    def value(self, node: Node, path: Path, *, key: Node | None = None) -> Any:
        """Return the value of ``node``, which stands at ``path`` under ``key``."""
        mark = self._mark(key or node, node)
        self.marks[path] = mark
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES or len(path) > MAX_DEPTH:
            what = "must not repeat so much by aliases, but does. Write the values out."
            raise RecipeError([f"{mark.where}: {shown(path[:4])}: {what}"])
        if isinstance(node, ScalarNode):
            return _scalar(node)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, MappingNode), node
        return self._mapping(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, item in node.value:
            mark = self._mark(key, key)
            if not isinstance(key, ScalarNode):
                self.problems.append(
                    Problem(mark, path, "must have plain keys, but has a list or a mapping as key.")
                )
                continue
            at = (*path, key.value)
            if key.value == "<<" and key.style is None:
                self.problems.append(
                    Problem(mark, at, "must not be used (YAML 1.2 has no merge keys). Write the keys out.")
                )
            elif key.value in values:
                text = f"must be given once, but is given on lines {first[key.value]} and {mark.order}. Remove one."
                self.problems.append(Problem(mark, at, text))
            else:
                first[key.value] = mark.order
                values[key.value] = self.value(item, at, key=key)
        return values

    def _mark(self, place: Node, node: Node) -> Mark:
        line = place.start_mark.line + 1
        return Mark(f"{self.name}:{line}", line, node.value if isinstance(node, ScalarNode) else None)


def _scalar(node: ScalarNode) -> Any:
    """Return text, an int, a float or None. Dates and booleans stay text; quoted scalars always are."""
    text: str = node.value
    kind = str(node.tag).removeprefix(_PREFIX)
    if kind == "null":
        return None
    if kind == "int" and (text[:2].lower() in ("0o", "0x", "0b")):
        return int(text, 0)
    if kind in ("int", "float") and _NUMBER.fullmatch(text):
        plain = text.replace("_", "")
        return int(plain) if kind == "int" and len(plain) < 100 else float(plain)
    return text


def _syntax_message(error: YAMLError, name: str) -> str:
    problem = str(getattr(error, "problem", None) or str(error).splitlines()[0])
    problem = re.sub(r"\('(.)',\)", r"'\1'", problem)  # how ruamel writes a sign that it did not expect
    mark = (error.problem_mark or error.context_mark) if isinstance(error, MarkedYAMLError) else None
    where = f"{name}:{mark.line + 1}" if mark is not None else name
    hint = next((hint for sign, hint in _HINTS if sign in problem), "Check quotes, brackets and indentation.")
    return f"{where}: must be YAML, but {problem}. {hint}"
