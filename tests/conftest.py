"""What every test may count on: no network, one thread per process, two small real models on disk."""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

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
    from transformers import BertConfig, BertModel

    folder, tokenizer = tmp_path_factory.mktemp("tiny_bert"), _tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _saved(BertModel, config, tokenizer, folder)


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random T5 (2 + 2 layers, width 32) with tokenizer; treat it as read-only."""
    from transformers import T5Config, T5ForConditionalGeneration

    folder, tokenizer = tmp_path_factory.mktemp("tiny_t5"), _tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return _saved(T5ForConditionalGeneration, config, tokenizer, folder)


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random BART (2 + 2 layers, width 32) with tokenizer; treat it as read-only."""
    from transformers import BartConfig, BartForConditionalGeneration

    folder, tokenizer = tmp_path_factory.mktemp("tiny_bart"), _tokenizer()
    sides = ("encoder", "decoder")
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        decoder_start_token_id=tokenizer.sep_token_id,
        **{f"{side}_layers": 2 for side in sides},
        **{f"{side}_attention_heads": 4 for side in sides},
        **{f"{side}_ffn_dim": 64 for side in sides},
    )
    return _saved(BartForConditionalGeneration, config, tokenizer, folder)


@pytest.fixture(scope="session")
def tiny_translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random mBART-50 (2 + 2 layers, width 32), which reads letters; treat it as read-only."""
    from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    folder = tmp_path_factory.mktemp("tiny_translator")
    first, last = ("<s>", "<pad>", "</s>", "<unk>"), (*FAIRSEQ_LANGUAGE_CODES, "<mask>")
    signs = dict.fromkeys(("▁", *string.ascii_lowercase, *CHINESE, *"。，.,?"))
    tokenizer = MBart50Tokenizer(vocab=[(token, 0.0) for token in (*first, *signs, *last)])
    config = MBartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        max_position_embeddings=128,
        scale_embedding=True,
        decoder_start_token_id=tokenizer.eos_token_id,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    )
    return _saved(MBartForConditionalGeneration, config, tokenizer, folder)


def _tokenizer() -> Any:
    """Return a WordPiece tokenizer of English and Chinese."""
    from transformers import BertTokenizer

    signs = (*string.ascii_lowercase, *string.digits, *string.punctuation)
    pieces = (f"##{sign}" for sign in (*string.ascii_lowercase, *string.digits, "ing", "ed", "s"))
    tokens = dict.fromkeys((*SPECIAL, *signs, *WORDS, *CHINESE, *pieces))  # keeps order, drops repeats
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=128)


def _saved(model_class: Any, config: Any, tokenizer: Any, folder: Path) -> Path:
    """Write a random model with its tokenizer into ``folder``; return the folder."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
