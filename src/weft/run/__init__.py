"""The loop over stages, the run folder, and going on after an interruption."""
