"""Models at work: the ASE calculator, relaxation and molecular dynamics, of one system or of many at once."""

from macejax.simulate.calculator import Calculator
from macejax.simulate.driver import Outcome, run_on_device
from macejax.simulate.ensemble import Ensemble
from macejax.simulate.many import relax_many, run_many
from macejax.simulate.md import SimulationError, Thermo, run_md
from macejax.simulate.record import recorder
from macejax.simulate.relax import Relaxation, relax
from macejax.simulate.signed import load_outputs

__all__ = [
    "Calculator",
    "Ensemble",
    "Outcome",
    "Relaxation",
    "SimulationError",
    "Thermo",
    "load_outputs",
    "recorder",
    "relax",
    "relax_many",
    "run_many",
    "run_md",
    "run_on_device",
]
