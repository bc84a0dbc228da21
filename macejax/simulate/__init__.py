"""Models at work: the ASE calculator, relaxation and molecular dynamics."""

from macejax.simulate.calculator import Calculator
from macejax.simulate.driver import Outcome, run_on_device
from macejax.simulate.ensemble import Ensemble
from macejax.simulate.md import SimulationError, Thermo, run_md
from macejax.simulate.record import recorder
from macejax.simulate.relax import Relaxation, relax

__all__ = [
    "Calculator",
    "Ensemble",
    "Outcome",
    "Relaxation",
    "SimulationError",
    "Thermo",
    "recorder",
    "relax",
    "run_md",
    "run_on_device",
]
