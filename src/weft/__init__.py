"""Weft: hybrid fine-tuning of language models - many tasks, several stages, any mix of strategies."""

__version__ = "0.1.0"
