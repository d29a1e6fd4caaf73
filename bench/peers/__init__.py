"""The peers: Hugging Face Trainer, PEFT, TRL, SetFit and sentence-transformers, each used as its own guides do."""
