"""Answers of a network to rows of many tasks, scores of them with intervals, and two runs side by side."""
