"""Which parameters move, and how: selectors, methods, plans and the one place that freezes."""
