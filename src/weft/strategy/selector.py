"""Selectors: what people type to say which parameters of a network they mean.

    all                                  the trunk, heads not included
    heads, heads.<task>                  task heads
    encoder, decoder                     one stack; a model with a single stack has its layers under either word
    layers[0:4], layers[8:], layers[-2:], layers[3], top 2, bottom 4
    embeddings, attention, ffn, pooler, final_norm, lm_head
    norm, bias, linear                   by kind: every norm, every bias, every matrix but the output embedding
    self_attention, cross_attention      of a layer's own tokens; of what a decoder sees of its encoder
    kv, qv                               keys and values, queries and values, also where they lie in one matrix
    layers[8:].attention.query, encoder.layers[0:2].ffn, layers[4:].bias
    layers.3.attention.query             a canonical path, of a site or of one parameter
    re:<regex>                           searched for in the raw module names of the trunk
    attention, ffn                       a union; ``+`` with blanks around it says the same

Without ``encoder.`` or ``decoder.`` a selector means both stacks. ``attention`` covers ``cross_attention``. A table of
embeddings that both stacks share belongs to neither: ``embeddings`` names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.errors import SiteError, nearest
from weft.strategy.base import Place

MATRICES = frozenset({SiteKind.LINEAR, SiteKind.CONV1D})
WORDS = frozenset(
    "all heads encoder decoder layers embeddings attention self_attention cross_attention kv qv ffn norm final_norm bias "
    "linear pooler lm_head".split()
)

_SEGMENT = re.compile(r"(?P<name>[A-Za-z0-9_-]+)(?:\[(?P<range>[^\[\]]*)\])?")
_ENDS = re.compile(r"(top|bottom)\s+(\d+)(.*)")
_SPLIT = re.compile(r"\s*,\s*|\s+\+\s+")

Match = Callable[[Site, ParamInfo], bool]


def select(view: ModelView, text: str) -> tuple[str, ...]:
    """Return the canonical paths of the parameters that ``text`` selects, in view order, aliases by their owner.

    Raises:
        SiteError: ``text`` is no selector, or matches nothing; the message lists what exists.
    """
    paths = dict.fromkeys(info.tied_to or info.path for _, info in _selected(view, text))
    return tuple(path for path in _owners(view) if path in paths)


def select_sites(view: ModelView, text: str) -> tuple[str, ...]:
    """Return the paths of the sites that ``text`` selects whole (every parameter), in view order.

    Raises:
        SiteError: ``text`` is no selector, matches nothing, or names parameters only (``bias``).
    """
    hits = {info.path for _, info in _selected(view, text)}
    whole = tuple(
        site.path for site in view.sites if site.params and all(info.path in hits for info in site.params)
    )
    if not whole:
        raise SiteError(
            f"{text}: must name whole sites, but names only some of their parameters. "
            f"Choices: {', '.join(existing(view))}."
        )
    return whole


def existing(view: ModelView) -> tuple[str, ...]:
    """Return the sites of ``view`` in short, layers folded together (``layers[0:6].attention.query``)."""
    return tuple(dict.fromkeys(_folded(view, site.path) for site in view.sites))


def is_head(path: str) -> bool:
    """Return whether ``path`` lies in a task's head."""
    return path.startswith("heads.")


def _folded(view: ModelView, path: str) -> str:
    if not view.has_table and not is_head(path):
        return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", path)
    stack, layer, rest = _located(view, path)
    return path if layer is None else ".".join([f"{stack}layers[0:{view.num_layers[stack]}]", *rest])


def _owners(view: ModelView) -> Iterator[str]:
    return (info.path for site in view.sites for info in site.params if info.tied_to is None)


def _selected(view: ModelView, text: str) -> list[tuple[Site, ParamInfo]]:
    hits: dict[str, tuple[Site, ParamInfo]] = {}
    for term in _terms(text):
        matches = _matcher(view, term)
        found = {
            info.path: (site, info) for site in view.sites for info in site.params if matches(site, info)
        }
        if not found:
            hint = "" if view.has_table else "This model has no name table: use re:<regex> on module names. "
            raise SiteError(
                f"{term}: must match something in this {view.architecture}, but matches nothing. "
                f"{hint}{nearest(term, {*existing(view), *_words_of(view)})}"
            )
        hits |= found
    return list(hits.values())


def _words_of(view: ModelView) -> set[str]:
    """Return the words by kind or group that mean something in ``view``."""
    infos = [(site, info) for site in view.sites for info in site.params]
    return {word for word in WORDS if any(_matcher(view, word)(*pair) for pair in infos)}


def _terms(text: str) -> list[str]:
    """Return the members of a union; a regex runs to the end, since it may hold commas."""
    terms: list[str] = []
    rest: str | None = text.strip()
    while rest is not None:
        term, *tail = [rest] if rest.startswith("re:") else _SPLIT.split(rest, maxsplit=1)
        if not term:
            raise SiteError(
                f"{text!r}: must be a selector, but a part of it is empty. Write all, layers[0:4] or top 2."
            )
        terms.append(term)
        rest = tail[0] if tail else None
    return terms


def _matcher(view: ModelView, term: str) -> Match:
    if term.startswith("re:"):
        return _regex(term)
    segments = _segments(view, term)
    literal = re.sub(r"\s", "", term)
    if f"{literal}." in view.num_layers:  # a whole stack: what it shares with the other is not its own
        return lambda site, info: _walk(view, segments, site, info)
    return lambda site, info: _covers(literal, info.path) or _walk(view, segments, site, info)


def _covers(literal: str, path: str) -> bool:
    return path == literal or path.startswith(f"{literal}.")


def _regex(term: str) -> Match:
    try:
        pattern = re.compile(term.removeprefix("re:"))
    except re.error as error:
        raise SiteError(f"{term}: must be a regular expression, but {error}. Mend the expression.") from error
    return lambda site, _: not is_head(site.path) and pattern.search(site.raw) is not None


@dataclass(frozen=True, slots=True)
class _Segment:
    """One dotted part of a selector; ``within`` gives the layer numbers meant, by stack."""

    name: str
    within: dict[str, range] | None = None


def _segments(view: ModelView, term: str) -> tuple[_Segment, ...]:
    ends, text = _ENDS.fullmatch(term), term
    if ends is not None:
        if not int(ends[2]):
            return ()
        slice_ = f"[-{ends[2]}:]" if ends[1] == "top" else f"[0:{ends[2]}]"
        text = f"layers{slice_}{ends[3]}"
    dotted = re.sub(r"(^|\.)layers\.(\d+)(?=\.|$)", r"\1layers[\2]", re.sub(r"\s", "", text))
    parts = [_SEGMENT.fullmatch(part) for part in dotted.split(".")]
    segments: list[_Segment] = []
    for part in parts:
        if part is None or (part["range"] is not None and part["name"] != "layers"):
            raise SiteError(
                f"{term}: must be a selector, but cannot be read. "
                f"Write words with dots between, such as layers[8:].attention.query, top 2 or re:<regex>."
            )
        stacks = (
            [f"{segments[0].name}."]
            if segments and f"{segments[0].name}." in view.num_layers
            else view.num_layers
        )
        within = (
            None
            if part["range"] is None
            else {s: _layers(term, part["range"], view.num_layers[s]) for s in stacks}
        )
        segments.append(_Segment(part["name"], within))
    return tuple(segments)


def _layers(term: str, text: str, count: int) -> range:
    """Return the layers that ``text`` (``3``, ``0:4``, ``-2:``) means among ``count``; unlike Python's, strict."""
    bounds = re.fullmatch(r"(?P<start>-?\d+)?(?P<colon>:)?(?P<stop>-?\d+)?", text)
    if bounds is None or (bounds["colon"] is None and bounds["start"] is None):
        raise SiteError(
            f"{term}: layers are given as layers[3], layers[0:4] or layers[-2:], but this is not."
        )
    start = _bound(bounds["start"], 0, count)
    stop = _bound(bounds["stop"], count, count) if bounds["colon"] else start + 1
    if not 0 <= start < stop <= count:
        raise SiteError(
            f"{term}: must lie within the {count} layers that there are, but does not. Choose within [0:{count}]."
        )
    return range(start, stop)


def _bound(text: str | None, default: int, count: int) -> int:
    if text is None:
        return default
    return int(text) + count if text.startswith("-") else int(text)


def place_of(view: ModelView, path: str) -> Place:
    """Return where ``path`` lies in its stack; what no layer can be told of counts as being above all.

    What two stacks share (a table of embeddings, the output embedding) lies below or above all of both.
    """
    stack, layer, rest = _located(view, path)
    count = view.num_layers.get(stack, max(view.num_layers.values(), default=0))
    if layer is not None:
        return Place(f"{stack}layers.{layer}", count - 1 - layer, count)
    return Place("", count if rest and rest[0] == "embeddings" else 0, count)


def _located(view: ModelView, path: str) -> tuple[str, int | None, list[str]]:
    """Return the stack, the layer number (None outside the layers) and what follows them in ``path``."""
    parts = path.split(".")
    stack = f"{parts[0]}." if f"{parts[0]}." in view.num_layers else ""
    rest = parts[1:] if stack else parts
    if stack in view.num_layers and len(rest) > 1 and rest[0] == "layers" and rest[1].isdigit():
        return stack, int(rest[1]), rest[2:]
    return stack, None, rest


def _walk(view: ModelView, segments: tuple[_Segment, ...], site: Site, info: ParamInfo) -> bool:
    """Return whether ``segments`` lead to the parameter: stack, then layers, then words or kinds."""
    if not segments or is_head(info.path):
        return bool(segments) and segments[0].name == "heads" and _words(segments, info.path.split("."), site)
    if segments[0].name == "all":
        return _words(segments[1:], [], site, tail=info.path.split(".")[-1])
    stack, layer, rest = _located(view, info.path)
    if segments[0].name in ("encoder", "decoder"):
        has_stack = f"{segments[0].name}." in view.num_layers
        if not (stack == f"{segments[0].name}." if has_stack else _in_only_stack(view, layer, rest)):
            return False
        segments = segments[1:]
        if has_stack and not segments and not (info.tied_to or stack).startswith(stack):
            return False
    if segments and segments[0].name == "layers":
        within = segments[0].within
        if layer is None or (within is not None and layer not in within.get(stack, ())):
            return False
        segments = segments[1:]
    return _words(segments, rest, site, tail=info.path.split(".")[-1])


def _in_only_stack(view: ModelView, layer: int | None, rest: list[str]) -> bool:
    return "" in view.num_layers and (layer is not None or rest[0] == "final_norm")


def _words(segments: tuple[_Segment, ...], parts: list[str], site: Site, *, tail: str | None = None) -> bool:
    """Return whether each segment is the next word of the path, or a kind that the parameter is of."""
    last = parts[-1] if tail is None else tail
    for segment in segments:
        if parts and _is_word(segment.name, parts[0]):
            parts = parts[1:]
        elif not _is_kind(segment.name, site, last):
            return False
    return True


def _is_word(word: str, part: str) -> bool:
    return word == part or (word, part) in (("attention", "cross_attention"), ("self_attention", "attention"))


def _is_kind(word: str, site: Site, local: str) -> bool:
    match word:
        case "bias":
            return local == "bias"
        case "norm":
            return site.kind is SiteKind.NORM
        case "linear":
            return site.kind in MATRICES and site.path != "lm_head"
        case "kv":
            return re.search(r"attention\.(key|value|kv|qkv)$", site.path) is not None
        case "qv":
            return re.search(r"attention\.(query|value|kv|qkv)$", site.path) is not None
        case _:
            return False
