"""Many unlike systems at once, in one compiled program."""

from macejax.simulate.many.md import Run, Runs, run_many

__all__ = ["Run", "Runs", "run_many"]
