"""Site energies -> energy, forces, stress, virials, Hessian."""

from macejax.potential.predict import Prediction, assemble, edge_gradient, predict

__all__ = ["Prediction", "assemble", "edge_gradient", "predict"]
