"""What pages say of a task's answers, in each language; fields are named after what they say."""

from __future__ import annotations

from dataclasses import dataclass

from weft.report.details import Column, Part, SpanError


@dataclass(frozen=True, slots=True)
class DetailWords:
    """One language. A part has a title and, under ``<part>_lead``, a sentence."""

    confusion: str
    confusion_lead: str
    pairs: str
    pairs_lead: str
    classes: str
    classes_lead: str
    reliability: str
    reliability_lead: str
    span_types: str
    span_types_lead: str
    span_errors: str
    span_errors_lead: str
    scatter: str
    scatter_lead: str
    residuals: str
    residuals_lead: str
    lengths: str
    lengths_lead: str
    worst: str
    worst_lead: str
    samples: str
    samples_lead: str
    label: str
    gold: str
    answered: str
    precision: str
    recall: str
    f1: str
    num_gold: str
    num_answered: str
    count: str
    share: str
    error: str
    wrong_type: str
    wrong_boundary: str
    wrong_both: str
    elsewhere: str
    missed: str
    spurious: str
    others: str
    left_out: str
    not_shown: str
    claimed: str
    came_true: str
    ece: str
    tempered: str
    confidence: str
    tokens: str
    off_by: str
    drawn_of: str

    def title(self, key: Part | Column | SpanError) -> str:
        """Return what ``key`` is called."""
        return getattr(self, key.value)

    def lead(self, part: Part) -> str:
        """Return the sentence under the title of ``part``."""
        return getattr(self, f"{part.value}_lead")


EN = DetailWords(
    confusion="Confusion matrix",
    confusion_lead="Rows: gold. Columns: answered. The stronger the colour, the larger the share of the row.",
    pairs="Most confused",
    pairs_lead="Share: of the rows with that gold label.",
    classes="Scores by label",
    classes_lead="Lowest F1 first.",
    reliability="Reliability",
    reliability_lead="Bars: how often answers of that probability are right. On the diagonal, probabilities come true.",
    span_types="Scores by type",
    span_types_lead="A span is right if type, start and end are. Lowest F1 first.",
    span_errors="How spans are wrong",
    span_errors_lead="Each gold span that was not answered exactly, and each answered one that meets no gold span.",
    scatter="Answered against gold",
    scatter_lead="On the diagonal, answers are right.",
    residuals="Errors",
    residuals_lead="Answered minus gold.",
    lengths="Scores by length",
    lengths_lead="Quarters of the rows, by tokens, with 95 % intervals.",
    worst="Worst answers",
    worst_lead="Furthest from gold; of equals, those whose answer was surest.",
    samples="Samples",
    samples_lead="From all over the split, not chosen for their answers.",
    label="label",
    gold="gold",
    answered="answered",
    precision="precision",
    recall="recall",
    f1="F1",
    num_gold="support",
    num_answered="answered",
    count="count",
    share="share",
    error="error",
    wrong_type="wrong type",
    wrong_boundary="wrong boundary",
    wrong_both="wrong type and boundary",
    elsewhere="wrong place",
    missed="missed",
    spurious="spurious",
    others="{} others",
    left_out="{} more",
    not_shown="and {} that are not shown",
    claimed="probability",
    came_true="right",
    ece="calibration error (ECE) {}",
    tempered="calibration error (ECE) {} after temperature {}, {} before",
    confidence="probability {}",
    tokens="tokens",
    off_by="answered minus gold",
    drawn_of="{} of {} rows",
)

ZH = DetailWords(
    confusion="混淆矩阵",
    confusion_lead="行：标准答案。列：模型答案。颜色越深，占该行的比例越大。",
    pairs="最易混淆",
    pairs_lead="比例：占该标准标签的行数。",
    classes="各标签得分",
    classes_lead="按 F1 从低到高。",
    reliability="可靠性",
    reliability_lead="柱：该概率的答案有多少是对的。落在对角线上，概率即属实。",
    span_types="各类型得分",
    span_types_lead="类型、起点、终点全对才算对。按 F1 从低到高。",
    span_errors="片段错误的种类",
    span_errors_lead="每个未被准确答出的标准片段，以及每个不与任何标准片段相交的答案。",
    scatter="预测值与标准值",
    scatter_lead="落在对角线上即为正确。",
    residuals="误差",
    residuals_lead="预测值减标准值。",
    lengths="按长度的得分",
    lengths_lead="按词元数分为四组，附 95 % 区间。",
    worst="最差的答案",
    worst_lead="离标准答案最远者；相同时，概率最高者在前。",
    samples="样例",
    samples_lead="在整个划分中均匀抽取，不依答案挑选。",
    label="标签",
    gold="标准答案",
    answered="模型答案",
    precision="精确率",
    recall="召回率",
    f1="F1",
    num_gold="样本数",
    num_answered="答出数",
    count="次数",
    share="比例",
    error="错误",
    wrong_type="类型错误",
    wrong_boundary="边界错误",
    wrong_both="类型与边界均错",
    elsewhere="位置错误",
    missed="漏报",
    spurious="误报",
    others="其余 {} 类",
    left_out="另有 {} 项",
    not_shown="还有 {} 项未列出",
    claimed="概率",
    came_true="正确率",
    ece="校准误差（ECE）{}",
    tempered="校准误差（ECE）{}，温度 {}；校准前 {}",
    confidence="概率 {}",
    tokens="词元数",
    off_by="预测值减标准值",
    drawn_of="{} / {} 条",
)
