"""The eight candidate strategies that the job ``candidates`` tries, for both sides of the race."""

from __future__ import annotations

from dataclasses import dataclass

_TOP = r"bert\.encoder\.layer\.[45]\."
HEAD = r"^classifier\."
LINEAR = r"(attention\.self\.(query|key|value)|(attention\.)?output\.dense|intermediate\.dense)"


@dataclass(frozen=True)
class Candidate:
    """One strategy.

    Attributes:
        rate: peak learning rate.
        weft: the recipe's strategy, as YAML flow text.
        trained: what a Trainer user leaves trainable, a pattern on parameter names; the classifier always is.
        lora: where PEFT puts LoRA (r=8), a pattern on module names; empty for none.
    """

    rate: float
    weft: str
    trained: str
    lora: str = ""


CANDIDATES = {
    "head, 1e-3": Candidate(1e-3, "head", HEAD),
    "head, 5e-3": Candidate(5e-3, "head", HEAD),
    "top layer, 2e-4": Candidate(2e-4, "top 1", rf"{HEAD}|bert\.encoder\.layer\.5\."),
    "top 2, 1e-4": Candidate(1e-4, "top 2", rf"{HEAD}|{_TOP}"),
    "top 2, 3e-4": Candidate(3e-4, "top 2", rf"{HEAD}|{_TOP}"),
    "LoRA on top 2, 1e-3": Candidate(1e-3, "[{sites: top 2.linear, train: lora}]", "", rf"{_TOP}{LINEAR}"),
    "ffn of top 2, 2e-4": Candidate(2e-4, "top 2.ffn", rf"{HEAD}|{_TOP}(intermediate|output)\.dense\."),
    "attention of top 2, 2e-4": Candidate(
        2e-4, "top 2.attention", rf"{HEAD}|{_TOP}attention\.(self|output\.dense)"
    ),
}
