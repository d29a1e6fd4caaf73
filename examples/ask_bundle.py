"""Open a bundle and ask it: every task that takes the text answers, from one pass of the trunk.

python examples/ask_bundle.py runs/quickstart "a joy to watch from first to last"
"""

from __future__ import annotations

import sys
from pathlib import Path

from weft.evaluate.ask import ask, from_texts
from weft.export.bundle import open_bundle


def main(arguments: list[str]) -> None:
    """Print the answers of the bundle ``arguments[0]`` (or of the run that holds it) to all other arguments."""
    folder, *texts = arguments
    bundle = open_bundle(Path(folder))
    questions = from_texts(bundle.tasks, texts, pair=None)
    for name, reason in questions.left_out.items():
        print(f"{name} was not asked: {reason}")
    answers = ask(
        bundle.network, bundle.tasks, bundle.tokenizer, questions.rows, budget=8192, dtype=bundle.dtype
    )
    for text, answer in zip(texts, answers, strict=True):
        print(text)
        for name, one in answer.items():
            print(f"  {name}: {one}")


if __name__ == "__main__":
    main(sys.argv[1:])
