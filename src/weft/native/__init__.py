"""Optional compiled CPU kernels, each behind one plain function with a pure torch fallback of equal meaning."""

from weft.native.library import available, describe

__all__ = ["available", "describe"]
