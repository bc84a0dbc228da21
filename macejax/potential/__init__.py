"""Site energies -> energy, forces, stress, virials, Hessian."""

from macejax.potential.hessian import hessian
from macejax.potential.predict import Prediction, SiteEnergy, assemble, atomic_virials, edge_gradient, predict

__all__ = ["Prediction", "SiteEnergy", "assemble", "atomic_virials", "edge_gradient", "hessian", "predict"]
