"""Whether the number at the end of an answer is the right one."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from weft.metric.base import Metric
from weft.metric.text import text_metric

_MARK = "####"  # GSM8K writes the result behind it (arXiv:2110.14168)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LATEX = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![0-9A-Za-z_.)\]])-\s?)?[$€£¥]?(?P<top>{_WHOLE})(?:\s?/\s?(?P<bottom>{_WHOLE}))?"
)


def numeric_match() -> Metric:
    """Return the share of answers whose last number equals the reference's."""
    return text_metric("numeric_match", _matches)


def last_number(text: str) -> Fraction | None:
    r"""Return the number that ``text`` comes to: behind ``####``, in the last ``\boxed{}``, else its last one.

    Thousands separators, currency signs, fractions and full-width digits are read; units and percent signs are not
    numbers. A minus behind a number or a bracket subtracts.

    Example:
        >>> last_number("so she has 1,234.50 dollars. #### 18"), last_number("7-3/4"), last_number("共有１２个，余 -5 个")
        (Fraction(18, 1), Fraction(3, 4), Fraction(-5, 1))
    """
    text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")
    text = text.rpartition(_MARK)[2] or text
    boxed = _BOXED.findall(text)
    text = _LATEX.sub(r"\1/\2", boxed[-1] if boxed else text)
    found = [value for match in _NUMBER.finditer(text) if (value := _value(match)) is not None]
    return found[-1] if found else None


def _value(match: re.Match[str]) -> Fraction | None:
    top, bottom = _plain(match["top"]), _plain(match["bottom"] or "1")
    if not bottom:
        return None
    return -top / bottom if match["sign"] else top / bottom


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _matches(gold: str, text: str) -> float:
    wanted = last_number(gold)
    return float(gold.split() == text.split() if wanted is None else wanted == last_number(text))
