"""What a run is, as frozen values. Field names are the recipe's keys; every field changes what a run does.

Task families and strategy methods add their own keys by subclassing ``TaskSpec`` and ``Rule`` in their own files;
``Catalogue`` carries those classes into the decoder, so that this room names none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from weft.errors import nearest
from weft.recipe.duration import Duration
from weft.recipe.names import Name


class Spec(BaseModel):
    """Base of all recipe values: frozen, no unknown keys, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _one_is_a_list(value: Any) -> Any:
    """Let a list be written as its only element; numbers stay, so that they are reported (or read) as an element."""
    return value if value is None or isinstance(value, Mapping | list | tuple) else (value,)


Sources = Annotated[tuple[str, ...], BeforeValidator(_one_is_a_list)]


def _quoted(value: Any) -> Any:
    """Say what ``text: {title}`` is to YAML without quotes: a mapping."""
    if isinstance(value, Mapping):
        raise PydanticCustomError(
            "quoted", "must be a column, or several in quotes such as '{title}: {body}'"
        )
    return value


Column = Annotated[str, BeforeValidator(_quoted)]


class TaskSpec(Spec):
    """What every task says. Families subclass this in ``weft.task`` and fix ``kind``."""

    kind: str
    """Task family, e.g. classification."""
    train: Sources = Field(min_length=1)
    """Training data: file, folder or hub id, with an optional slice such as data.csv[:500]."""
    dev: Sources = ()
    """Data to select on; without it a tenth of the training rows is held out."""
    test: Sources = ()
    """Data for the final score, never seen by any choice."""
    columns: dict[str, Column] = {}
    """Column names by role where the guess is wrong, e.g. {text: review}; a text may be made of several columns, which
    stand in braces: {text: "{word}: {sentence1}"}."""
    weight: float = Field(default=1.0, ge=0, le=1e6)
    """How strongly the task's loss counts (not how often it is drawn)."""
    judge: int | None = Field(default=None, ge=1)
    """Dev rows that are judged at each evaluation while training, evenly spread; default: all. The end is judged whole."""


class Rule(Spec):
    """One line of a strategy: which sites, moved how. Methods subclass this in ``weft.strategy`` and fix ``train``."""

    sites: str = "all"
    """Selector: all, encoder, ffn, attention, layers[0:4], top 2, layers[8:].attention, heads, re:<regex>."""
    train: str
    """Method, e.g. none, full, lora."""
    lr: float | None = Field(default=None, gt=0, le=10)
    """Peak learning rate of these sites; default: the stage's, else the method's own."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer's rate is this times that of the layer above it (arXiv:1801.06146); the top layer has the whole."""
    since: float = Field(default=0.0, ge=0, lt=1)
    """Share of the stage after which these sites begin to move; heads first, then all, is LP-FT (arXiv:2202.10054)."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The members of each axis that a recipe may name. Built by ``weft.build.catalogue()``.

    Attributes:
        tasks: spec class by task kind.
        methods: rule class by method name.
        strategies: names of the rule lists with a name (``lora``, ``ffn``, ...).
    """

    tasks: Mapping[str, type[TaskSpec]]
    methods: Mapping[str, type[Rule]]
    strategies: frozenset[str]


def _decode_task(value: Any, handler: Any, info: ValidationInfo) -> Any:
    if isinstance(value, TaskSpec):
        return handler(value)
    return _decode_member(value, info, key="kind", base=TaskSpec, axis="tasks")


def _decode_rule(value: Any, handler: Any, info: ValidationInfo) -> Any:
    if isinstance(value, Rule):
        return handler(value)
    return _decode_member(value, info, key="train", base=Rule, axis="methods")


def _decode_member(value: Any, info: ValidationInfo, *, key: str, base: type[Spec], axis: str) -> Any:
    if not isinstance(value, Mapping):
        raise PydanticCustomError("member", "must be a mapping with the key '{key}'", {"key": key})
    classes: Mapping[str, type[Spec]] = getattr(info.context, axis) if info.context else {}
    name = value.get(key)
    if isinstance(name, str) and name in classes:
        return classes[name].model_validate(dict(value), context=info.context)
    hint = nearest(str(name), classes) if key in value else f"Choices: {', '.join(sorted(classes))}."
    kind = PydanticCustomError("unknown" if key in value else "missing", "{hint}", {"key": key, "hint": hint})
    errors = [InitErrorDetails(type=kind, loc=(key,), input=name), *_common_errors(value, key=key, base=base)]
    raise ValidationError.from_exception_data(base.__name__, errors)


def _common_errors(value: Mapping[str, Any], *, key: str, base: type[Spec]) -> list[InitErrorDetails]:
    """Return what is wrong with the keys that all members of an axis share; the others cannot be known."""
    common = {name: item for name, item in value.items() if name in base.model_fields}
    try:
        base.model_validate({**common, key: "unknown"})
    except ValidationError as error:
        return [
            InitErrorDetails(type=one["type"], loc=one["loc"], input=one["input"], ctx=one.get("ctx", {}))
            for one in error.errors()
        ]
    return []


AnyTask = Annotated[SerializeAsAny[TaskSpec], WrapValidator(_decode_task)]
AnyRule = Annotated[SerializeAsAny[Rule], WrapValidator(_decode_rule)]


def _strategy_form(value: Any) -> str | None:
    if isinstance(value, str | int | float):  # a number is reported (or read) as a name
        return "name"
    return "rules" if isinstance(value, list | tuple) else None


AnyStrategy = Annotated[
    Annotated[str, Tag("name")] | Annotated[tuple[AnyRule, ...], Field(min_length=1), Tag("rules")],
    Discriminator(
        _strategy_form,
        custom_error_type="strategy",
        custom_error_message="must be the name of a strategy, a selector or a list of rules",
    ),
]


class Quantize(StrEnum):
    """In how many bits the base's linear weights are kept."""

    INT8 = "int8"  # 8 bits, a scale for each row
    NF4 = "nf4"  # about 4.1 bits: quantiles of a normal distribution in blocks of 64 (arXiv:2305.14314)


class Init(StrEnum):
    """What the trunk starts from."""

    PRETRAINED = "pretrained"
    RANDOM = "random"


class ModelSpec(Spec):
    """The pretrained trunk."""

    path: str
    """Model folder, hub id, or 'minilm' for the embedded default."""
    revision: str | None = None
    """Commit of a hub id."""
    init: Init = Init.PRETRAINED
    """pretrained: start from the folder's weights; random: from scratch, by the seed; config.json and tokenizer will do."""
    max_tokens: int = Field(default=256, ge=8, le=1_000_000)
    """Longest row in tokens; longer ones are cut and counted."""
    quantize: Quantize | None = None
    """Keep the linear weights of the layers in few bits, frozen, under adapters: int8, or nf4 (QLoRA); default: as they are."""
    adapters: dict[Name, str] = {}
    """Trained adapters on it by name: folders of PEFT, AdapterHub or Weft, without heads; carry.trunk says what becomes of them."""


def _model_from_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str | int | float) else value


AnyModel = Annotated[ModelSpec, BeforeValidator(_model_from_path)]


class MixtureKind(StrEnum):
    """How often each task is drawn."""

    PROPORTIONAL = "proportional"  # by number of rows
    UNIFORM = "uniform"
    TEMPERATURE = "temperature"  # rows ** (1 / temperature)
    ROUND_ROBIN = "round_robin"  # strictly in turn
    FIXED = "fixed"  # the rates given with the tasks


class MixtureSpec(Spec):
    """How often each task is drawn; how strongly it counts is ``weight`` of the task."""

    kind: MixtureKind = MixtureKind.PROPORTIONAL
    """Proportional, uniform, temperature, round_robin or fixed."""
    temperature: float = Field(default=2.0, ge=1, le=100)
    """Only for kind temperature: 1 is proportional, large is uniform."""
    batches: Literal["mixed", "homogeneous"] = "mixed"
    """Whether one batch may hold rows of several tasks."""


def _mixture_from_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


AnyMixture = Annotated[MixtureSpec, BeforeValidator(_mixture_from_kind)]


def _rates_from_names(value: Any) -> Any:
    """Let rates be one task or a list of tasks; what else is wrong is said by the mapping's own decoder."""
    if isinstance(value, str | int | float):
        value = [str(value)]
    if not isinstance(value, list | tuple):
        return value
    names = _NAMES.validate_python(value)
    if not names or len(set(names)) < len(names):
        raise PydanticCustomError("rates", "must name at least one task, and each once")
    return dict.fromkeys(names, 1.0)


_NAMES: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[str, ...])
Rate = Annotated[float, Field(ge=0)]
Rates = Annotated[dict[str, Rate], BeforeValidator(_rates_from_names)]


class TrunkCarry(StrEnum):
    """What becomes of the parent's trained trunk."""

    MERGE = "merge"  # folded into the weights
    CONTINUE = "continue"  # the same parameters go on being trained
    STACK = "stack"  # adapters stay, frozen, under the new ones
    DROP = "drop"  # back to the base model


class HeadCarry(StrEnum):
    """What becomes of the parent's heads."""

    KEEP = "keep"
    NEW = "new"
    DROP = "drop"  # only this stage's tasks stay


class OptimizerCarry(StrEnum):
    """What becomes of the parent's optimizer state."""

    FRESH = "fresh"
    CONTINUE = "continue"


class Carry(Spec):
    """What a stage takes over from its parent, part by part."""

    trunk: TrunkCarry = TrunkCarry.MERGE
    """merge, continue, stack or drop."""
    heads: HeadCarry = HeadCarry.KEEP
    """keep, new or drop."""
    optimizer: OptimizerCarry = OptimizerCarry.FRESH
    """fresh or continue."""


class Schedule(StrEnum):
    """Learning rate over the stage, after warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class CombineMethod(StrEnum):
    """How several branches become one."""

    AVERAGE = "average"  # of their weights: a model soup
    ARITHMETIC = "arithmetic"  # what each added to the base model, added up
    TIES = "ties"  # the same of the largest changes, where signs agree
    DARE = "dare"  # the same of some changes at random, made larger
    DARE_TIES = "dare_ties"
    UNION = "union"  # adapters side by side, on one trunk


THINNED = frozenset({CombineMethod.TIES, CombineMethod.DARE, CombineMethod.DARE_TIES})
"""Those that keep a share of each branch's changes."""


class Combine(Spec):
    """How a stage with several parents starts."""

    method: CombineMethod = CombineMethod.AVERAGE
    """average, arithmetic, ties, dare or dare_ties of weights; union keeps the adapters of all parents beside each other."""
    weights: dict[Name, Annotated[float, Field(gt=0, le=1000)]] = {}
    """Factor by parent; default: 1 each. Those of an average are brought to the sum 1."""
    density: float = Field(default=0.5, gt=0, le=1)
    """Share of each branch's changes that ties and dare keep."""


def _combine_from_method(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


AnyCombine = Annotated[Combine, BeforeValidator(_combine_from_method)]


class Activations(StrEnum):
    """What of a pass is kept until its gradient is taken; outputs and gradients are the same."""

    AUTO = "auto"  # the most that fits
    KEEP = "keep"
    RECOMPUTE = "recompute"  # each layer's input; the rest is computed again
    OFFLOAD = "offload"  # the same, and these inputs wait in the host's memory


class Moments(StrEnum):
    """How the optimizer holds its two moments of each trained weight."""

    FP32 = "fp32"
    EIGHT_BIT = "8-bit"  # two bytes a weight instead of eight; rounding by chance keeps their means


class StageSpec(Spec):
    """One stage: a mixture of tasks, a strategy and a length, starting from a parent's weights."""

    name: Name
    """Name of the stage, also its folder."""
    parent: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """An earlier stage or 'base'; default: the stage before this one. A list of stages starts from all of them."""
    combine: AnyCombine = Combine()
    """How several parents become one: average, arithmetic, ties, dare or dare_ties."""
    tasks: Rates = {}
    """Tasks to train, with rates where the mixture is fixed; default: every task of the recipe."""
    mixture: AnyMixture = MixtureSpec()
    """How often each task is drawn."""
    strategy: AnyStrategy = "full"
    """A named strategy (full, head, lora, ffn, 'top 2', any selector) or a list of rules, read top to bottom."""
    carry: Carry = Carry()
    """What is taken over from the parent."""
    length: Duration = Duration.parse("3 epochs")
    """How long to train."""
    lr: float | None = Field(default=None, gt=0, le=10)
    """Peak learning rate for every rule that names none; default: each method's own."""
    batch: int = Field(default=32, ge=1, le=100_000)
    """Examples in one optimizer step."""
    budget: int = Field(default=8192, ge=16)
    """Most tokens, padding included, in one pass; a larger step is cut into several with the same gradient."""
    schedule: Schedule = Schedule.LINEAR
    """linear, cosine or constant."""
    warmup: float = Field(default=0.06, ge=0, lt=1)
    """Share of the stage over which the rate rises from zero."""
    decay: float = Field(default=0.01, ge=0, lt=1)
    """Decoupled weight decay of matrices; vectors have none."""
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the trunk's hidden states and of heads while training."""
    reuse: bool = True
    """Compute what frozen lower layers make of a text once and keep it on disk; dropout then acts above them only."""
    activations: Activations = Activations.AUTO
    """What of a pass is kept for its gradient: auto (the most that fits), keep, recompute or offload."""
    moments: Moments = Moments.FP32
    """How the optimizer's state is held: fp32, or 8-bit for two bytes a trained weight instead of eight."""
    compile: bool = False
    """Run the trunk's layers through torch.compile: on a GPU, or in fp32."""
    evaluate: Duration = Duration.parse("1 epoch")
    """How often the dev score is taken; the best checkpoint by it is what the stage hands on."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations without a better score."""
    save: Duration = Duration.parse("5 minutes")
    """How often the state to resume from is written."""

    @model_validator(mode="before")
    @classmethod
    def _rates_mean_fixed(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("tasks"), Mapping) or not data["tasks"]:
            return data
        mixture = data.get("mixture", {})
        if isinstance(mixture, Mapping) and "kind" not in mixture:
            return {**data, "mixture": {**mixture, "kind": MixtureKind.FIXED}}
        return data


class Precision(StrEnum):
    """Arithmetic of matrix products; norms, losses and the optimizer are always fp32."""

    AUTO = "auto"  # bf16 where the machine has units for it
    FP32 = "fp32"
    MEDIUM = "medium"  # fp32 weights and states; products round their inputs to bf16 (CPU) or TF32 (GPU) on the way
    BF16 = "bf16"


class Recipe(Spec):
    """Everything that decides what a run does."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Source of every random choice."""
    data_root: str | None = None
    """Folder where data is looked for first, then beside the recipe, then on the Hub; owner/name is a folder in it too."""
    model: AnyModel
    """The pretrained trunk: a name, or a mapping."""
    tasks: dict[Name, AnyTask] = Field(min_length=1)
    """What to learn, by name."""
    stages: tuple[StageSpec, ...] = Field(min_length=1)
    """When to learn it, in order."""
    precision: Precision = Precision.AUTO
    """auto, fp32, medium (fp32 weights, narrower products) or bf16 (twins of fp32 weights)."""
    keep: int = Field(default=2, ge=1, le=1000)
    """Checkpoints to resume from that are kept, the best one not counted."""
    bootstrap: int = Field(default=1000, ge=100, le=100_000)
    """Resamples behind each confidence interval."""

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON of this recipe, hex."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def stage(self, name: str) -> StageSpec:
        """Return the stage called ``name``."""
        return next(stage for stage in self.stages if stage.name == name)

    def parents_of(self, stage: StageSpec) -> tuple[StageSpec, ...]:
        """Return the stages that ``stage`` starts from, none for the base model."""
        match stage.parent:
            case "base":
                return ()
            case str(name):
                return (self.stage(name),)
            case None:
                index = self.stages.index(stage)
                return (self.stages[index - 1],) if index else ()
            case names:
                return tuple(self.stage(name) for name in names)

    def tasks_of(self, stage: StageSpec) -> tuple[str, ...]:
        """Return the names of the tasks that ``stage`` trains, in recipe order; a rate of 0 is as if not named."""
        return tuple(name for name in self.tasks if not stage.tasks or stage.tasks.get(name, 0) > 0)
