"""Weft as its users run it: a recipe and nothing else."""
