"""Weft against named peers, side by side."""
