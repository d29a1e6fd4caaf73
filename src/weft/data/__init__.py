"""From a reference in a recipe to rows, columns by role, and what to know about them before training."""
