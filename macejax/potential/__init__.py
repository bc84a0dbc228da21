"""Site energies -> energy, forces, stress, virials, Hessian, heat flux; moments of atoms -> dipoles, polarizabilities and derivatives."""

from macejax.potential.deform import deform, energy, place, voigt_strain
from macejax.potential.heat_flux import HeatFlux, heat_flux
from macejax.potential.hessian import forces_at, hessian, hessian_vector_product
from macejax.potential.moments import MomentDerivatives, Moments, moment_derivatives, predict_moments
from macejax.potential.predict import Prediction, SiteEnergy, assemble, atomic_virials, edge_gradient, predict

__all__ = [
    "HeatFlux",
    "MomentDerivatives",
    "Moments",
    "Prediction",
    "SiteEnergy",
    "assemble",
    "atomic_virials",
    "deform",
    "edge_gradient",
    "energy",
    "forces_at",
    "heat_flux",
    "hessian",
    "hessian_vector_product",
    "moment_derivatives",
    "place",
    "predict",
    "predict_moments",
    "voigt_strain",
]
