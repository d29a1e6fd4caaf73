"""Prompt tuning: learnt embeddings in front of each row, as if they were tokens (arXiv:2104.08691).

Legend: V vocabulary, D width, P virtual tokens of one adapter, N those of all adapters in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from weft.core.parts import AdapterState
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.core.view import ModelView, Site, SiteKind
from weft.core.virtual import VirtualTokens, stacked
from weft.recipe.spec import Rule
from weft.strategy.base import AdapterRule, Edits
from weft.strategy.edit import Edit, Factors
from weft.strategy.site_method import AtSite, SiteMethod, renamed, weight_of

NUM_TOKENS = 20
"""Beyond about 20 tokens more of them gain little (arXiv:2104.08691, section 3.2)."""
MOST_TOKENS = 4096


class PromptInit(StrEnum):
    """What virtual tokens start from."""

    VOCAB = "vocab"  # embeddings of tokens drawn from the vocabulary
    RANDOM = "random"  # numbers drawn with the spread of the vocabulary's


class PromptRule(AdapterRule):
    """``{train: prompt, tokens: 20}``."""

    sites: str = "embeddings"
    """Selector; it must name the table of token embeddings."""
    train: Literal["prompt"] = "prompt"  # pyright: ignore[reportIncompatibleVariableOverride]
    tokens: int = Field(default=NUM_TOKENS, ge=1, le=MOST_TOKENS)
    """Virtual tokens in front of each row; a row has as many fewer positions for its own."""
    init: PromptInit = PromptInit.VOCAB
    """vocab: start from embeddings of tokens drawn from the vocabulary; random: from numbers of the same spread."""


class PromptSite(Edit, VirtualTokens):
    """In front of an embedding: ids from V on are looked up in the tables of the adapters in use."""

    key = "prompt"
    place = 8  # what changes the stock table must not be asked for tokens that it does not have
    tables = ("prompt",)
    prompt: Factors
    prompt_options: dict[str, dict[str, Any]]

    def virtual_tokens(self) -> Mapping[str, int]:
        """Return the number of tokens of each adapter, in the order in which they stand."""
        return {name: options["tokens"] for name, options in self.prompt_options.items()}

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors (..., D) of ``ids`` (...)."""
        vocabulary = cast(nn.Embedding, self).num_embeddings
        outputs: Tensor = super().forward(ids.clamp(max=vocabulary - 1))
        names = stacked(self.virtual_tokens(), self.routing, 0).names
        if not names:
            return outputs
        tables_ND = torch.cat([self.prompt[name] for name in names])
        virtual = F.embedding((ids - vocabulary).clamp(0, len(tables_ND) - 1), tables_ND)
        return torch.where((ids >= vocabulary)[..., None], virtual.to(outputs.dtype), outputs)


class PromptAt(AtSite):
    """Options of a site."""

    tokens: Annotated[int, Field(ge=1, le=1_000_000)]


class Prompt(SiteMethod):
    """Virtual tokens. The rate is that of PEFT's guide to prompt tuning: few values, far from where they must go."""

    name = "prompt"
    rule = PromptRule
    edits = Edits.POSITIONS
    lr = 3e-2
    advice = (
        "prompts need high rates, 0.3 for the largest models (arXiv:2104.08691); a tenth of that "
        "for smaller ones"
    )
    kinds = frozenset({SiteKind.EMBEDDING})
    module = PromptSite
    source = "arXiv:2104.08691"
    at_site = PromptAt

    def stands_at(self, view: ModelView, site: Site) -> bool:
        """Return whether ``site`` is the table of token embeddings."""
        return site.path == view.words

    def keeps_function(self, rule: Rule) -> bool:  # noqa: ARG002
        """Return False: what stands in front of a row is seen by all of it."""
        return False

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return the number of tokens and the kind of the site."""
        assert isinstance(rule, PromptRule)
        return {"tokens": rule.tokens, "kind": str(site.kind)}

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the table, (P, D)."""
        return {"prompt": (options["tokens"], weight_of(site).shape[1])}

    def install(self, sites: SiteMap, site: Site, rule: Rule, *, adapter: str, seed: int) -> None:
        """Put tokens at ``site`` that start as the rule says.

        Source: arXiv:2104.08691, section 3.2, where starting from the vocabulary is the better.
        """
        assert isinstance(rule, PromptRule)
        generator = torch.Generator().manual_seed(fold(seed, self.name, adapter, site.path))
        table_VD = cast(nn.Parameter, sites.module(site.path).weight).detach()
        drawn_P = torch.randint(0, table_VD.shape[0], (rule.tokens,), generator=generator)
        start_PD = table_VD[drawn_P.to(table_VD.device)].float()
        if rule.init is PromptInit.RANDOM and not table_VD.is_meta:
            start_PD = torch.randn(start_PD.shape, generator=generator) * float(table_VD.float().std())
        self.place(sites, site, adapter, self.options(site, rule), {"prompt": start_PD})

    def joined(self, states: Sequence[AdapterState], *, name: str) -> AdapterState:
        """Return one adapter called ``name`` with the tokens of ``states``, in their order."""
        (path, options), *_ = states[0].config["sites"].items()
        tables = [state.tensors[f"{path}.prompt.{state.name}"] for state in states]
        table_PD = torch.cat(tables)
        sites = {path: {**options, "tokens": len(table_PD)}}
        return renamed(
            AdapterState(name, self.name, {"sites": sites}, {f"{path}.prompt.{name}": table_PD}), name
        )
