"""Site energies -> energy, forces, stress, virials, Hessian, heat flux."""

from macejax.potential.deform import deform, energy, place, voigt_strain
from macejax.potential.heat_flux import HeatFlux, heat_flux
from macejax.potential.hessian import forces_at, hessian, hessian_vector_product
from macejax.potential.predict import Prediction, SiteEnergy, assemble, atomic_virials, edge_gradient, predict

__all__ = [
    "HeatFlux",
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
    "place",
    "predict",
    "voigt_strain",
]
