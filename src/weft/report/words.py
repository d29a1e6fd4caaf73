"""What pages say, in each language. A missing word is a type error, not a hole in a page."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from weft.report import detail_words
from weft.report.detail_words import DetailWords


@dataclass(frozen=True, slots=True)
class Words:
    """One language. Fields with ``{}`` take values in order."""

    lang: str
    report: str
    evaluation: str
    finished: str
    unfinished: str
    seed: str
    num_tasks: str
    num_stages: str
    all_beat: str
    some_beat: str
    no_final: str
    baseline: str
    over_baseline: str
    under_baseline: str
    beats: str
    level: str
    below: str
    rows: str
    dev_chose: str
    fitted: str
    stages: str
    stages_lead: str
    base_model: str
    trained_of: str
    carry: str
    steps: str
    epochs: str
    curves: str
    curves_lead: str
    train_loss: str
    dev: str
    perplexity: str
    step: str
    best: str
    scores: str
    scores_lead: str
    given_lead: str
    details: str
    details_lead: str
    detail: DetailWords
    leaving: str
    leaving_lead: str
    task: str
    kind: str
    split: str
    metric: str
    value: str
    interval: str
    mixture: str
    mixture_lead: str
    stage: str
    rate_wanted: str
    drawn: str
    rate_drawn: str
    passes: str
    parameters: str
    parameters_lead: str
    paths: str
    role: str
    owner: str
    why: str
    tensors: str
    values: str
    lr: str
    trained: str
    frozen: str
    data: str
    data_lead: str
    read: str
    used: str
    dropped: str
    length: str
    cut: str
    duplicates: str
    labels: str
    more_labels: str
    columns: str
    overlap: str
    shared: str
    sources: str
    warnings: str
    none: str
    cost: str
    cost_lead: str
    training: str
    evaluating: str
    answering: str
    examples: str
    tokens: str
    tokens_per_s: str
    padding: str
    peak_memory: str
    skipped: str
    stopped: str
    total: str
    entry: str
    notes: str
    environment: str
    digest: str
    footer: str


EN = Words(
    lang="en",
    report="Run report",
    evaluation="Evaluation",
    finished="finished",
    unfinished="not finished",
    seed="seed {}",
    num_tasks="{} tasks",
    num_stages="{} stages",
    all_beat="Every task beats its baseline, and no interval reaches it.",
    some_beat="{} of {} tasks beat their baseline with an interval that does not reach it.",
    no_final="No final evaluation yet.",
    baseline="baseline",
    over_baseline="{} above baseline",
    under_baseline="{} below baseline",
    beats="better than baseline",
    level="not distinguishable from baseline",
    below="worse than baseline",
    rows="rows",
    dev_chose="dev also chose the checkpoint: read this score as optimistic",
    fitted="fitted to dev: {}",
    stages="Stages",
    stages_lead="Which weights each stage starts from, what it trains, and what it takes over.",
    base_model="base model",
    trained_of="{} of {} trained ({})",
    carry="takes over",
    steps="{} steps",
    epochs="{} epochs",
    curves="Learning curves",
    curves_lead="Steps run on over the stages. Shaded: 95 % bootstrap interval. Ringed: the checkpoint handed on.",
    train_loss="train loss",
    perplexity="perplexity",
    dev="dev",
    step="step",
    best="best",
    scores="Final scores",
    details="Answers in detail",
    details_lead="What the answers behind the final scores look like, task by task.",
    detail=detail_words.EN,
    leaving="After each stage",
    leaving_lead="Dev scores, with intervals, of every head that a stage handed on, whether the stage trained it or not.",
    scores_lead="Intervals: 95 % bootstrap over the rows. The upright tick is the baseline: majority or mean of the "
    "training labels.",
    given_lead="Intervals: 95 % bootstrap over the rows. The upright tick is the baseline: majority or mean of the "
    "labels in the file itself.",
    task="task",
    kind="kind",
    split="split",
    metric="metric",
    value="value",
    interval="95 % interval",
    mixture="Mixture",
    mixture_lead="How often each task was to be drawn, and how often it was.",
    stage="stage",
    rate_wanted="share wanted",
    drawn="examples drawn",
    rate_drawn="share drawn",
    passes="passes over its rows",
    parameters="Parameters",
    parameters_lead="Every parameter once, rows with the same owner, role, reason and rate in one line.",
    paths="paths",
    role="role",
    owner="owner",
    why="why",
    tensors="tensors",
    values="values",
    lr="peak lr",
    trained="trained",
    frozen="frozen",
    data="Data",
    data_lead="What was read, what was used, and what was not.",
    read="read",
    used="used",
    dropped="dropped",
    length="tokens: mean · p95 · max",
    cut="cut",
    duplicates="duplicates",
    labels="labels",
    more_labels="and {} more",
    columns="columns",
    overlap="texts in two splits",
    shared="training texts shared with",
    sources="sources",
    warnings="Warnings",
    none="none",
    cost="Cost",
    cost_lead="Tokens are real ones; padding is the share of the computed grid that held none.",
    training="training",
    evaluating="evaluating",
    answering="of it answers",
    examples="examples",
    tokens="tokens",
    tokens_per_s="tokens/s",
    padding="padding",
    peak_memory="peak memory",
    skipped="steps skipped",
    stopped="ended by",
    total="total",
    entry="change on entry",
    notes="Notes",
    environment="Environment",
    digest="recipe digest",
    footer="Made by Weft {}. This page is one file and asks the network for nothing.",
)

ZH = Words(
    lang="zh",
    report="训练报告",
    evaluation="评估报告",
    finished="已完成",
    unfinished="未完成",
    seed="随机种子 {}",
    num_tasks="{} 个任务",
    num_stages="{} 个阶段",
    all_beat="所有任务都优于各自的基线，且置信区间均不包含基线。",
    some_beat="{} / {} 个任务优于各自的基线，且置信区间不包含基线。",
    no_final="尚无最终评估。",
    baseline="基线",
    over_baseline="高于基线 {}",
    under_baseline="低于基线 {}",
    beats="优于基线",
    level="与基线无显著差别",
    below="劣于基线",
    rows="条",
    dev_chose="检查点也由开发集选出：此分数可能偏高",
    fitted="在开发集上拟合：{}",
    stages="阶段",
    stages_lead="每个阶段从哪份权重开始、训练什么、继承什么。",
    base_model="基座模型",
    trained_of="训练 {} / {}（{}）",
    carry="继承",
    steps="{} 步",
    epochs="{} 轮",
    curves="学习曲线",
    curves_lead="步数跨阶段累计。阴影：95 % 自助法置信区间。圆圈：交给下一阶段的检查点。",
    train_loss="训练损失",
    perplexity="困惑度",
    dev="开发集",
    step="步",
    best="最佳",
    scores="最终得分",
    details="答案细览",
    details_lead="最终得分背后的答案是什么样子，逐任务列出。",
    detail=detail_words.ZH,
    leaving="各阶段结束时",
    leaving_lead="每个阶段交出的所有头在开发集上的得分和区间，不论该阶段是否训练过它。",
    scores_lead="区间：按行重采样的 95 % 自助法置信区间。竖线为基线：训练标签的多数类或均值。",
    given_lead="区间：按行重采样的 95 % 自助法置信区间。竖线为基线：所给文件自身标签的多数类或均值。",
    task="任务",
    kind="类型",
    split="数据划分",
    metric="指标",
    value="得分",
    interval="95 % 区间",
    mixture="任务混合",
    mixture_lead="每个任务计划抽取的比例，以及实际抽取的比例。",
    stage="阶段",
    rate_wanted="计划比例",
    drawn="实际样本数",
    rate_drawn="实际比例",
    passes="遍历次数",
    parameters="参数",
    parameters_lead="每个参数恰好出现一次；归属、角色、原因和学习率相同的合并为一行。",
    paths="路径",
    role="角色",
    owner="归属",
    why="原因",
    tensors="张量数",
    values="参数量",
    lr="峰值学习率",
    trained="训练",
    frozen="冻结",
    data="数据",
    data_lead="读取了什么、使用了什么、舍弃了什么。",
    read="读取",
    used="使用",
    dropped="舍弃",
    length="词元数：均值 · p95 · 最大",
    cut="截断",
    duplicates="重复",
    labels="标签",
    more_labels="另有 {} 种",
    columns="列",
    overlap="两个划分共有的文本",
    shared="共享训练文本的任务",
    sources="来源",
    warnings="警告",
    none="无",
    cost="开销",
    cost_lead="词元数不含填充；填充率是计算网格中空位所占的比例。",
    training="训练",
    evaluating="评估",
    answering="其中作答",
    examples="样本",
    tokens="词元",
    tokens_per_s="词元/秒",
    padding="填充率",
    peak_memory="内存峰值",
    skipped="跳过的步数",
    stopped="结束原因",
    total="合计",
    entry="进入时的变化",
    notes="备注",
    environment="环境",
    digest="配方摘要",
    footer="由 Weft {} 生成。本页为单个文件，不访问网络。",
)

LANGUAGES = MappingProxyType({words.lang: words for words in (EN, ZH)})


def words_of(lang: str) -> Words:
    """Return the words of ``lang`` (``en``, ``zh``, ``zh-CN``, ...).

    Raises:
        ValueError: no such language.
    """
    short = lang.replace("_", "-").split("-")[0].lower()
    if short not in LANGUAGES:
        raise ValueError(f"lang: must be one of {', '.join(LANGUAGES)}, but is {lang!r}.")
    return LANGUAGES[short]
