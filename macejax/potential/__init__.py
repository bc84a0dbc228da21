"""Site energies -> energy, forces, stress, virials, Hessian, heat flux."""

from macejax.potential.heat_flux import HeatFlux, heat_flux
from macejax.potential.hessian import hessian
from macejax.potential.predict import Prediction, SiteEnergy, assemble, atomic_virials, edge_gradient, predict

__all__ = ["HeatFlux", "Prediction", "SiteEnergy", "assemble", "atomic_virials", "edge_gradient", "heat_flux", "hessian", "predict"]
