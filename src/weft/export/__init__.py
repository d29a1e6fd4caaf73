"""Bundles and other formats: what leaves a run, proven to be what was trained."""
