"""Training one stage: the order of rows, the step, the optimizer, schedules, progress and checkpoints."""
