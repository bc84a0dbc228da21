"""Derivatives of observables by the parameters of a model: through trajectories, of ensemble averages, of what is at rest."""

from macejax.differentiate.crystal import barrier, bulk_modulus, equilibrium_scale, free_cell, free_positions
from macejax.differentiate.errors import DerivativeError
from macejax.differentiate.graph import atomic_masses, refuse_outside, window
from macejax.differentiate.implicit import conjugate_gradient, dense, refuse_unsettled, stationary_point
from macejax.differentiate.rdf import radial_distribution, refuse_short
from macejax.differentiate.reweight import Frames, make_frames, refuse_few, reweight, value_and_gradient
from macejax.differentiate.sample import sampler
from macejax.differentiate.trajectory import Near, State, Trajectory, check, langevin, maxwell_boltzmann, nve, simulate, start

__all__ = [
    "DerivativeError",
    "Frames",
    "Near",
    "State",
    "Trajectory",
    "atomic_masses",
    "barrier",
    "bulk_modulus",
    "check",
    "conjugate_gradient",
    "dense",
    "equilibrium_scale",
    "free_cell",
    "free_positions",
    "langevin",
    "make_frames",
    "maxwell_boltzmann",
    "nve",
    "radial_distribution",
    "refuse_few",
    "refuse_outside",
    "refuse_short",
    "refuse_unsettled",
    "reweight",
    "sampler",
    "simulate",
    "start",
    "stationary_point",
    "value_and_gradient",
    "window",
]
