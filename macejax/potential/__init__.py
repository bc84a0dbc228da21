"""Site energies -> energy, forces, stress, virials, Hessian; moments of atoms -> dipoles, polarizabilities and their derivatives."""

from macejax.potential.hessian import hessian
from macejax.potential.moments import MomentDerivatives, Moments, moment_derivatives, predict_moments
from macejax.potential.predict import Prediction, SiteEnergy, assemble, atomic_virials, edge_gradient, predict

__all__ = [
    "MomentDerivatives",
    "Moments",
    "Prediction",
    "SiteEnergy",
    "assemble",
    "atomic_virials",
    "edge_gradient",
    "hessian",
    "moment_derivatives",
    "predict",
    "predict_moments",
]
