"""The promises of parity in float64, one tolerance each, relative to the largest entry of the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ENERGY = 1e-10
DERIVATIVES = 1e-9  # forces, stress, dE/d(strain), Hessian
PARAMETER_GRADIENT = 1e-8


def assert_close(ours: np.ndarray, reference: np.ndarray, tolerance: float, what: str) -> None:
    """|ours - reference| <= tolerance * max |reference|, in every entry."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape, f"{what}: shape {ours.shape} instead of {reference.shape}"
    scale = np.abs(reference).max(initial=0.0)
    error = np.abs(ours - reference).max(initial=0.0)
    assert error <= tolerance * scale, f"{what}: off by {error:.2e}, which is {error / max(scale, 1e-300):.2e} of {scale:.3g}"


def assert_same_answer(ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], *, periodic: bool) -> None:
    """Everything that the reference knows. Stress is compared where all directions are periodic: elsewhere mace-torch invents a volume."""
    assert {"energy", "forces"} <= set(reference)
    for name in ("energy", "node_energy", "contributions"):
        if name not in reference:
            continue
        assert_close(ours[name], reference[name], ENERGY, name)
    for name in ("forces", "strain_derivative", "hessian") + (("stress",) if periodic else ()):
        if name in reference:
            assert_close(ours[name], reference[name], DERIVATIVES, name)
