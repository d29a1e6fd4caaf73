"""What every test may count on: no network, one thread per process, two small real models on disk."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest

# Before anything imports a Hub library: these are read at import.
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[_name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: more than one thread each makes all of them slower.
    os.environ["OMP_NUM_THREADS"] = "1"

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "a an the this that it is was are be not no very and or but of in on at to for with by "
    "he she they we you i who what when where good bad great poor film movie book story cat dog man woman city "
    "paris london berlin germany france john mary smith acme works lives likes hates runs sleeps eats "
    "one two three red blue green big small old new happy sad"
).split()
CHINESE = "我你他们的是不很好坏电影书在北京上海人大小说"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the matrices counted: tests record it as the property ``counts``, one line each."""
    for report in terminalreporter.stats.get("passed", ()):
        for name, line in report.user_properties:
            if name == "counts":
                terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_under_xdist() -> None:
    """Keep torch to one thread in a worker, whatever set its default before."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests leave in caches away from the user's."""
    os.environ["WEFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """Return the folder of the 260k-parameter Llama; treat it as read-only."""
    return Path(__file__).parent / "models" / "stories260k"


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random BERT (2 layers, width 32, 4 heads) with tokenizer; treat it as read-only."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny_bert")
    signs = (*string.ascii_lowercase, *string.digits, *string.punctuation)
    pieces = (f"##{sign}" for sign in (*string.ascii_lowercase, *string.digits, "ing", "ed", "s"))
    tokens = dict.fromkeys((*SPECIAL, *signs, *WORDS, *CHINESE, *pieces))  # keeps order, drops repeats
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=128)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        pad_token_id=vocabulary["[PAD]"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
