"""Rates and sizes that all contestants of a job share."""

BATCH = 32
RATES = {"full": 5e-5, "lora": 1e-3, "top2": 2e-4, "head": 5e-3, "six": 2e-4, "pairs": 5e-5, "decoder": 1e-3}
DECODER_BATCH = 8
DECODER_TOKENS = 256
ADAPTERS = 16
HEADS = 16
SINGLES = 200  # requests of one text
