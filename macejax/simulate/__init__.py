"""Models at work: the ASE calculator, relaxation and molecular dynamics."""

from macejax.simulate.calculator import Calculator
from macejax.simulate.md import SimulationError, Thermo, run_md
from macejax.simulate.record import recorder
from macejax.simulate.relax import Relaxation, relax

__all__ = ["Calculator", "Relaxation", "SimulationError", "Thermo", "recorder", "relax", "run_md"]
