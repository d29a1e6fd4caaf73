"""HTML and SVG elements as text in which nothing can be injected: every child that is not ``Html`` is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

_VOID = frozenset({"br", "meta", "hr", "line", "rect", "circle", "path", "polyline", "polygon"})
# Characters that HTML does not allow in a document even when escaped, and the ones that turn the reading direction.
_FORBIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


class Html(str):
    """Markup that is safe already; only this module makes it from text."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return ``value`` escaped, for element content and attribute values."""
    if isinstance(value, Html):
        return value
    clean = _FORBIDDEN.sub("\ufffd", str(value)).encode("utf-8", "replace").decode()
    return Html(html.escape(clean))


def tag(name: str, *children: object, attrs: Mapping[str, object] | None = None) -> Html:
    """Return one element.

    Args:
        name: of the element.
        children: ``Html`` goes in as it is, None is left out, everything else is escaped.
        attrs: None leaves an attribute out; floats are written with two decimals at most.

    Example:
        >>> tag("td", "<b>", attrs={"class": "n"})
        '<td class="n">&lt;b&gt;</td>'
    """
    pairs = "".join(
        f' {key}="{text(_attribute(value))}"' for key, value in (attrs or {}).items() if value is not None
    )
    if not children and name in _VOID:
        return Html(f"<{name}{pairs}>" if name in {"br", "meta", "hr"} else f"<{name}{pairs}/>")
    inner = "".join(text(child) for child in children if child is not None)
    return Html(f"<{name}{pairs}>{inner}</{name}>")


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Return all ``parts``, escaped where they need it, one after the other."""
    return Html(text(separator).join(text(part) for part in parts if part is not None))


def _attribute(value: object) -> object:
    return decimal(value) if isinstance(value, float) else value


def decimal(value: float) -> str:
    """Return ``value`` with two decimals at most, for coordinates."""
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written
