"""A transformers backbone as Weft's trunk: batches in, features out.

Legend: B rows, L padded length, T real tokens, D width, M any number of tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from weft.core.batch import Batch, Replies
from weft.core.decoding import Decoding
from weft.core.features import Features, PoolMemory
from weft.core.layout import Layout
from weft.core.network import Heard, TrunkInfo
from weft.core.routing import with_rows
from weft.core.virtual import rerouted, with_tokens
from weft.errors import ModelError
from weft.model import attention, prefixed
from weft.model.compiled import compiled
from weft.model.cut import all_layers, evaluating
from weft.model.decoder import decoder_of, has_encoder, written
from weft.model.frozen import Frozen
from weft.model.generate import continued
from weft.model.names import name_table
from weft.model.narrow import Narrow, is_worth_it
from weft.model.recompute import kept
from weft.model.virtual import Virtual, keys_of, on, real
from weft.recipe.spec import Activations

UNLIMITED = 10_000_000  # positions of a trunk that names no limit
_PADDED_STEPS = 8  # widths an octave: at most an eighth too wide, 3 % on average
_PACKED_STEPS = 16  # token counts an octave
_CACHED = 4096  # tokens in the cache of one group of answers
_LEAST_BITS = 3  # below a multiple of 8 tokens a product takes as long as with 8


class HFTrunk(nn.Module):
    """A transformers model that satisfies ``weft.core.network.Trunk``.

    Args:
        model: a plain backbone (``AutoModel``), or a causal LM or an encoder-decoder where ``info.vocabulary`` is not 0.
        info: what heads need to know of it.
    """

    def __init__(self, model: nn.Module, info: TrunkInfo) -> None:
        super().__init__()
        self.model = model
        self.info = info
        backbone = self.backbone
        self._accepted = frozenset(inspect.signature(self.reader.forward).parameters)
        self._first_position = first_position(backbone)
        self.frozen: Frozen | None = None
        self.activations = Activations.KEEP
        self.compiles = False
        # A tuple: a module in an attribute of its own would be a child.
        table = name_table(backbone.config.to_dict())
        self._layers = all_layers(backbone, table)
        self._keys = keys_of(backbone, table)
        self._decoder = decoder_of(model) if info.is_encoder_decoder else None
        self._has_segments = hasattr(getattr(backbone, "embeddings", None), "token_type_embeddings")

    @property
    def backbone(self) -> Any:
        """The transformers model without an output embedding."""
        return cast(Any, self.model).base_model if self.info.vocabulary else self.model

    @property
    def reader(self) -> Any:
        """What rows pass: the encoder of an encoder-decoder, else the backbone."""
        backbone = self.backbone
        return backbone.get_encoder() if has_encoder(backbone) else backbone

    @property
    def packs(self) -> bool:
        """Whether packed batches are computed as they are; else on a padded grid."""
        return self.backbone.config.model_type in attention.PACKS

    @property
    def recomputes(self) -> bool:
        """Whether its layers can be run again for their gradient: they are known one by one."""
        return bool(self._layers)

    def forward(self, batch: Batch, *, perturb: Tensor | None = None) -> Features:
        """Return the last hidden states of ``batch`` from one pass; padded in, padded out; packed in, packed out.

        Args:
            batch: tokens (B, L) with padding on the right, or (T,).
            perturb: added to the word embeddings, shape (B, L, D) or (T, D) as the batch is.

        Raises:
            ModelError: a row is longer than the trunk's positions.
        """
        virtual = self.virtual
        stack = virtual.tokens(batch.layout.num_rows)
        _check_length(self.info, batch.layout.max_length, virtual=stack.most)
        if not stack.most:
            return self._pass(batch, perturb)
        longer, perturb, place_T = with_tokens(
            batch, stack.rows, vocabulary=virtual.vocabulary, perturb=perturb
        )
        with rerouted(self.modules(), stack.counts):
            return real(self._pass(longer, perturb), batch.layout, place_T)

    @property
    def virtual(self) -> Virtual:
        """What methods have put in front of rows."""
        words = getattr(self.reader, "get_input_embeddings", None)
        return Virtual(None if words is None else words(), *self._keys)

    def num_virtual(self, groups: Iterable[Sequence[str]]) -> int:
        """Return the most positions that methods take from a row that takes one of ``groups`` of adapters."""
        return self.virtual.most(groups)

    def _pass(self, batch: Batch, perturb: Tensor | None) -> Features:
        """Return the features of every position of ``batch``, virtual tokens among them."""
        layout = batch.layout
        if self.frozen is not None and self.frozen.is_at_rest and layout.is_packed and perturb is None:
            # Looked up, and only as far as somebody asks for it.
            return self._features(
                partial(self._packed_TD, batch, None), layout, memory=self.frozen.memory(batch)
            )
        if not layout.is_packed or not self.packs:
            return self._on_grid(batch, perturb)
        reads_M = self._read(batch)
        hidden = self._packed_TD(batch, perturb, reads_M=reads_M)
        features = self._features(hidden, layout)
        if reads_M is not None:
            features.places_T = _places(reads_M, layout.num_tokens)
        return features

    def _read(self, batch: Batch) -> Tensor | None:
        """Return the tokens of a packed batch that the last layer is computed for, None for all."""
        reads_M, cut = batch.reads_M, None if self.frozen is None else self.frozen.cut
        if reads_M is None or not is_worth_it(len(reads_M), batch.layout.num_tokens):
            return None
        return reads_M if cut is None or cut.at < len(cut.layers) else None

    def _features(
        self, hidden: Tensor | Callable[[], Tensor], layout: Layout, *, memory: PoolMemory | None = None
    ) -> Features:
        return Features(
            hidden,
            layout,
            pooler=self._pool if self.info.has_pooler else None,
            project=cast(Any, self.model).get_output_embeddings()
            if self.info.is_causal and self.info.vocabulary
            else None,
            memory=memory,
        )

    def _packed_TD(self, batch: Batch, perturb_TD: Tensor | None, *, reads_M: Tensor | None = None) -> Tensor:
        """Return states (T, D), of ``reads_M`` (M, D), of rows that pass the model end to end without padding."""
        if self.frozen is not None and perturb_TD is None:
            return self._from_cut_TD(batch, self.frozen, reads_M)
        return self._run_TD(batch, perturb_TD, reads_M=reads_M)

    def _from_cut_TD(self, batch: Batch, frozen: Frozen, reads_M: Tensor | None) -> Tensor:
        """Return states (T, D) of packed rows, of which the layers below the cut run for texts that are new only."""
        states_TD = frozen.states_TD(
            batch, lower=lambda rows: self._run_TD(rows, None, call=frozen.cut.lower)
        )
        if frozen.cut.is_whole:
            return states_TD

        def upper(inputs: dict[str, Any]) -> Tensor:
            tokens_BL = inputs["input_ids"]
            states = functional.pad(states_TD, (0, 0, 0, tokens_BL.shape[1] - len(states_TD)))
            with frozen.cut.upper(states[None]):
                return self.backbone(**inputs).last_hidden_state

        return self._run_TD(batch, None, call=upper, reads_M=reads_M)

    def _run_TD(
        self,
        batch: Batch,
        perturb_TD: Tensor | None,
        *,
        call: Callable[[dict[str, Any]], Tensor] | None = None,
        reads_M: Tensor | None = None,
    ) -> Tensor:
        """Return states (T, D), of ``reads_M`` (M, D), from one ``call`` of the backbone, or of what stands for it."""
        layout = batch.layout
        extra = self._even(layout.num_tokens, steps=_PACKED_STEPS) - layout.num_tokens  # a row nobody reads
        inputs = self._inputs(_longer(batch.tokens, extra)[None], batch.segments, perturb_TD, extra)
        positions_T, shifts = layout.position_T(), self.virtual.read.shifts(layout.num_rows)
        if shifts:
            _check_length(self.info, layout.max_length, virtual=max(shifts))
            positions_T = positions_T + on(positions_T.device, shifts)[layout.row_T()]
            inputs[prefixed.KEYWORD] = prefixed.Pass(layout.num_rows)
        inputs["position_ids"] = _longer(positions_T, extra)[None] + self._first_position
        starts, longest = layout.cumulative(extra), max(layout.max_length, extra)
        inputs |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts}
        inputs |= {"max_length_q": longest, "max_length_k": longest}
        attending = partial(attention.used, self.backbone, attention.register(compiles=self.compiles))
        keeping = partial(kept, self.activations, self._layers, again=attending)
        with attending(), self._compiled(reads_M), self._narrowed(reads_M), keeping():
            states_1TD = self.backbone(**inputs).last_hidden_state if call is None else call(inputs)
        if reads_M is not None:
            return states_1TD.squeeze(0).index_select(0, reads_M)
        return states_1TD[0, : layout.num_tokens]

    def _compiled(self, reads_M: Tensor | None) -> AbstractContextManager[None]:
        """Run layers compiled within the block where that is asked for, but for one that is narrowed."""
        if not self.compiles:
            return nullcontext()
        return compiled(self._layers if reads_M is None else self._layers[:-1])

    def _narrowed(self, reads_M: Tensor | None) -> AbstractContextManager[None]:
        """Compute the last layer only for ``reads_M`` within the block."""
        if reads_M is None:
            return nullcontext()
        extra = self._even(len(reads_M), steps=_PACKED_STEPS) - len(reads_M)
        return Narrow(self._layers[-1], reads_M, extra).applied()

    def _on_grid(self, batch: Batch, perturb: Tensor | None) -> Features:
        """Return the features of rows computed on a padded grid, and of the replies to them.

        Where attention knows nothing else, packed rows are too.
        """
        layout = batch.layout
        if layout.is_packed:
            batch, perturb = _on_grid(batch), None if perturb is None else to_grid(perturb, layout)
        hidden_BLD = self._padded_BLD(batch, perturb)
        flat = partial(hidden_BLD.flatten(0, 1).index_select, 0)
        features = self._features(flat(grid_positions(layout)) if layout.is_packed else hidden_BLD, layout)
        if batch.replies is not None:
            features.decoder = self._written(hidden_BLD, batch, batch.replies)
        return features

    def _written(self, hidden_BLD: Tensor, batch: Batch, replies: Replies) -> Features:
        """Return the features of ``replies`` behind the states of the rows of ``batch``."""
        keys = self.virtual.written
        by_row = () if keys is None else keys.shifts(batch.layout.num_rows)
        shifts = tuple(by_row[row] for row in replies.rows) if by_row else ()
        virtual = max(shifts, default=0)
        _check_length(self.info, replies.layout.max_length, virtual=virtual)
        even, most = partial(self._even, steps=_PADDED_STEPS), self.info.max_positions - virtual
        attending = nullcontext if keys is None else partial(keys.seen, shifts)
        compiling = nullcontext() if shifts else self._compiled(None)
        with attending(), compiling, kept(self.activations, self._layers, again=attending):
            return written(self._decoder, hidden_BLD, batch, even=even, most=most)

    def generate(
        self, prompts: Sequence[Sequence[int]], how: Decoding, *, heard: Heard | None = None
    ) -> list[list[int]]:
        """Return continuations, one list of token ids a prompt, without prompt and stop token.

        A row never grows beyond the trunk's positions, so an answer may end earlier than ``how.max_new_tokens``. Rows
        that this cuts short run in groups of their own: what a row answers does not depend on its neighbours, also
        where it is drawn. An answer that a stop string ended holds it; ``Stops.cut`` takes it off the text.

        Raises:
            ModelError: the trunk has no output embedding, or a prompt is empty.
        """
        _check_prompts(self.info, prompts)
        virtual = self.virtual
        hidden = virtual.ids()
        room = self.info.max_positions - max((virtual.written or virtual.read).shifts(1), default=0)
        # A decoder of its own has all positions for itself, but for the one that it begins from.
        taken = [1 if self.info.is_encoder_decoder else len(hidden) + len(prompt) for prompt in prompts]
        limits = [min(how.max_new_tokens, room - count) for count in taken]
        answers: list[list[int]] = [[] for _ in prompts]
        for limit in sorted({limit for limit in limits if limit > 0}):
            rows = [row for row, own in enumerate(limits) if own == limit]
            lengths = [(len(hidden) + len(prompts[row]) + limit) * how.beams for row in rows]
            for group in _groups(rows, lengths):
                with _generating(self, [len(hidden) + len(prompts[row]) for row in group]):
                    grown = continued(
                        self.model,
                        [[*hidden, *prompts[row]] for row in group],
                        replace(how, max_new_tokens=limit),
                        seeds=[how.row_seed(prompts[row]) for row in group],
                        num_hidden=len(hidden),
                        heard=heard,
                    )
                for row, answer in zip(group, grown, strict=True):
                    answers[row] = answer
        return answers

    def _padded_BLD(self, batch: Batch, perturb_BLD: Tensor | None) -> Tensor:
        """Return states (B, L, D) of a padded batch."""
        layout, width, keys = batch.layout, batch.tokens.shape[1], self.virtual.read
        shifts = keys.shifts(layout.num_rows)
        most = self.info.max_positions - max(shifts, default=0)
        _check_length(self.info, layout.max_length, virtual=max(shifts, default=0))
        extra = max(min(self._even(width, steps=_PADDED_STEPS), most) - width, 0)
        tokens_BL = _longer(batch.tokens, extra)
        inputs = self._inputs(tokens_BL, batch.segments, perturb_BLD, extra)
        if layout.num_tokens != tokens_BL.numel():
            inputs["attention_mask"] = _longer(layout.mask_BL(), extra).to(torch.int64)
        if (self._first_position or shifts) and "position_ids" in self._accepted:
            # Some models find positions by comparing tokens with the padding token, which a real token may equal.
            last = self._first_position + tokens_BL.shape[1]
            positions_BL = torch.arange(self._first_position, last, device=tokens_BL.device).expand_as(
                tokens_BL
            )
            inputs["position_ids"] = (
                positions_BL + on(tokens_BL.device, shifts)[:, None] if shifts else positions_BL
            )
        attending = partial(keys.seen, shifts)
        compiling = nullcontext() if shifts else self._compiled(None)
        with attending(), compiling, kept(self.activations, self._layers, again=attending):
            return self.reader(**inputs).last_hidden_state[:, :width]

    def _inputs(
        self, tokens_BL: Tensor, segments: Tensor | None, perturb: Tensor | None, extra: int
    ) -> dict[str, Any]:
        """Return what every call of the backbone gets; ``segments`` and ``perturb`` lack ``extra`` tokens a row."""
        inputs: dict[str, Any] = {}
        if perturb is None:
            inputs["input_ids"] = tokens_BL
        else:
            words = self.reader.get_input_embeddings()(tokens_BL)
            inputs["inputs_embeds"] = words + functional.pad(perturb, (0, 0, 0, extra)).to(words.dtype)
        if segments is not None and "token_type_ids" in self._accepted:
            inputs["token_type_ids"] = _longer(segments, extra).view_as(tokens_BL)
        elif (
            self._has_segments
        ):  # the model's own default is as long as its positions, a packed row may be longer
            inputs["token_type_ids"] = torch.zeros_like(tokens_BL)
        if self.info.is_causal:
            inputs["use_cache"] = False
        return inputs

    def _even(self, count: int, *, steps: int) -> int:
        """Return the number of tokens to compute: in bf16 one of ``steps`` an octave, else ``count`` itself.

        Every new shape of a bf16 product makes oneDNN build and keep primitives of one to two MiB (measured; see
        docs/experiments.md); on a GPU few shapes are what graphs and tensor cores like.
        """
        is_narrow = next(self.model.parameters()).dtype is not torch.float32
        return even(count, steps=steps) if is_narrow else count

    def _pool(self, first_BD: Tensor) -> Tensor:
        return self.backbone.pooler(first_BD[:, None])


def _check_length(info: TrunkInfo, length: int, *, virtual: int) -> None:
    most = info.max_positions - virtual
    if length > most:
        taken = f" behind {virtual} virtual ones" if virtual else ""
        raise ModelError(
            f"batch: rows must have at most {most} tokens{taken} for this trunk, but one has {length}. "
            f"Lower model.max_tokens."
        )


def _check_prompts(info: TrunkInfo, prompts: Sequence[Sequence[int]]) -> None:
    if not info.vocabulary:
        raise ModelError(
            "trunk: must be loaded with its output embedding to generate, but was loaded without."
        )
    if any(not prompt for prompt in prompts):
        raise ModelError(
            "prompts: every prompt needs at least one token, but one is empty. Start it with BOS."
        )


@contextmanager
def _generating(trunk: HFTrunk, lengths: Sequence[int]) -> Generator[None]:
    """Let the stock model generate within the block, behind virtual keys where there are some."""
    # Without gradients SDPA is good everywhere; plain products would leave primitives behind for every length.
    stock, backbone = cast(Any, trunk.model), trunk.backbone
    how = "sdpa" if stock._supports_sdpa else backbone.config._attn_implementation
    virtual = trunk.virtual
    halves = () if virtual.written is None else (virtual.read, virtual.written)
    with ExitStack() as stack:
        stack.enter_context(evaluating(trunk))
        for part in (backbone, *(half.stack for half in halves)):  # each may have a configuration of its own
            stack.enter_context(attention.used(part, how))
        for half in halves:
            stack.enter_context(half.seen(half.shifts(1)))
        if halves:  # rows are read whole, and written token by token
            written = set(halves[1].stack.modules())
            read = [part for part in halves[0].stack.modules() if part not in written]
            stack.enter_context(with_rows(read, lengths))
        if not halves and (shifts := virtual.read.shifts(1)):
            stack.enter_context(virtual.read.seen(shifts))
            stack.enter_context(prefixed.shifted(backbone, shifts[0]))
        yield


def _groups(rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Return ``rows`` in groups, shorter ones first, whose caches hold at most ``_CACHED`` tokens, padding included.

    Keys and values of a token are often more than all activations of a step; more rows at once are hardly faster, for
    what is read at each further token grows with them.
    """
    groups: list[list[int]] = []
    for length, row in sorted(zip(lengths, rows, strict=True)):
        if groups and length * (len(groups[-1]) + 1) <= _CACHED:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def even(count: int, *, steps: int) -> int:
    """Return ``count`` rounded up to one of ``steps`` (a power of 2) values an octave, and to a multiple of 8.

    Example:
        >>> [even(count, steps=8) for count in (7, 17, 33, 100, 520)]
        [8, 24, 40, 104, 576]
    """
    step = 1 << max(_LEAST_BITS, count.bit_length() - steps.bit_length())
    return -(-count // step) * step


def _places(positions_M: Tensor, num_tokens: int) -> Tensor:
    """Return where each of ``num_tokens`` lies among ``positions_M``, M for those that do not: int64, shape (T,)."""
    count = len(positions_M)
    places_T = torch.full((num_tokens,), count, dtype=torch.int64, device=positions_M.device)
    return places_T.index_copy_(0, positions_M, torch.arange(count, device=positions_M.device))


def _longer(values: Tensor, extra: int) -> Tensor:
    """Return ``values`` (..., L) with ``extra`` zeros behind."""
    return functional.pad(values, (0, extra)) if extra else values


def first_position(backbone: nn.Module) -> int:
    """Return the first position of a row: RoBERTa's kind counts from behind the padding index, all others from 0."""
    positions = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return 0 if padding is None else padding + 1


def _on_grid(batch: Batch) -> Batch:
    """Return packed rows on a padded grid; the layout stays."""
    segments = None if batch.segments is None else to_grid(batch.segments, batch.layout)
    return replace(batch, tokens=to_grid(batch.tokens, batch.layout), segments=segments)


def grid_positions(layout: Layout) -> Tensor:
    """Return where each real token of a packed layout lies in the flattened (B, max_length) grid, shape (T,)."""
    return layout.row_T() * layout.max_length + layout.position_T()


def to_grid(packed: Tensor, layout: Layout) -> Tensor:
    """Return packed values (T, ...) on a (B, max_length, ...) grid, zero where there is padding."""
    shape = (layout.num_rows * layout.max_length, *packed.shape[1:])
    grid = packed.new_zeros(shape).index_copy(0, grid_positions(layout), packed)
    return grid.unflatten(0, (layout.num_rows, layout.max_length))
