"""Why a derivative is refused."""

from __future__ import annotations


class DerivativeError(RuntimeError):
    """A derivative that would be wrong or mean nothing. The message says why, and what to do."""
