"""Typed, versioned records of what happened, and pages made of them."""
