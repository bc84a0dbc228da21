"""Site energies -> energy, forces, stress, virials, Hessian."""

from macejax.potential.deform import deform, energy, place, voigt_strain
from macejax.potential.hessian import forces_at, hessian, hessian_vector_product
from macejax.potential.predict import Prediction, SiteEnergy, assemble, atomic_virials, edge_gradient, predict

__all__ = [
    "Prediction",
    "SiteEnergy",
    "assemble",
    "atomic_virials",
    "deform",
    "edge_gradient",
    "energy",
    "forces_at",
    "hessian",
    "hessian_vector_product",
    "place",
    "predict",
    "voigt_strain",
]
