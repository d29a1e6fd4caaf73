"""Pretrained backbones and tokenizers behind canonical names. The only room, with ``export/``, that sees transformers."""
