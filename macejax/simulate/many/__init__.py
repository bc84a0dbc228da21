"""Many unlike systems at once, in one compiled program."""

from macejax.simulate.many.alone import relax_one_by_one
from macejax.simulate.many.files import record_each
from macejax.simulate.many.md import Run, Runs, run_many
from macejax.simulate.many.relax import Relaxations, Relaxed, relax_many

__all__ = ["Relaxations", "Relaxed", "Run", "Runs", "record_each", "relax_many", "relax_one_by_one", "run_many"]
