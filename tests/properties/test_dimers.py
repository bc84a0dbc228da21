"""Curves of dimers: what is counted on curves that are known, and every pair of elements of a model with repulsion of nuclei."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ase import Atoms

from macejax.config import ConfigError, ModelConfig
from macejax.data.structure import DataError
from macejax.model.model import init_model
from macejax.properties import DimerCurve, dimer_curves
from macejax.simulate import Calculator
from tests.simulate.toy import morse, toy_model

ELEMENTS = (1, 3, 6, 8, 14, 29, 55, 79, 92, 94)


def made(**options):
    config = ModelConfig(
        elements=ELEMENTS,
        e0s=tuple(-float(z) for z in ELEMENTS),
        cutoff=4.0,
        hidden_irreps="4x0e",
        l_max=1,
        correlation=1,
        radial_mlp=(8,),
        model="ScaleShiftMACE",
        scale=0.5,
        **options,
    )
    return init_model(config, jax.random.key(0), np.float64)


@pytest.mark.thorough
def test_every_pair_of_elements_is_finite_and_repels():
    """Reliability row 36. Wells of a random model are deep or shallow, so of tortuosity and flips only what they cannot be is asked."""
    model = made(pair_repulsion=True)
    curves = dimer_curves(model)
    assert len({curve.pair for curve in curves}) == len(curves) == len(ELEMENTS) * (len(ELEMENTS) + 1) // 2
    for curve in curves:
        assert curve.finite and curve.repulsive and curve.force_flips >= 0 and curve.tortuosity > 1 - 1e-12, curve.pair
        assert curve.distances[0] == pytest.approx(0.1) and abs(curve.energies[-1]) < 0.05
    atoms = Atoms("CuAu", [[0, 0, 0], [0, 0, curves[0].distances[20]]])
    atoms.calc = Calculator(model)
    (curve,) = (curve for curve in curves if curve.pair == ("Cu", "Au"))
    apart = [Calculator(model).get_potential_energy(Atoms(symbol)) for symbol in ("Cu", "Au")]
    assert curve.energies[20] == pytest.approx(atoms.get_potential_energy() - sum(apart), abs=1e-9)
    assert curve.forces[20] == pytest.approx(atoms.get_forces()[1, 2], abs=1e-9)
    bare = dimer_curves(made(), elements=(1, 79))
    assert len(bare) == 3 and not all(curve.repulsive for curve in bare)  # it is the repulsion that repels


def test_flips_and_tortuosity_of_known_curves():
    (curve,) = dimer_curves(toy_model(), np.linspace(1.5, 3.9, 200), elements=(29,), site_energy=morse)
    assert curve.force_flips == 1 and curve.tortuosity == pytest.approx(1)
    x = np.linspace(0.0, 1.0, 1001)
    for waves in (1, 3):
        energies = np.cos(2 * np.pi * waves * x)
        wavy = DimerCurve(("H", "H"), x + 0.1, energies, 2 * np.pi * waves * np.sin(2 * np.pi * waves * x))
        assert wavy.tortuosity == pytest.approx(waves, rel=1e-3)
        assert wavy.force_flips == 2 * waves - 1
    assert not wavy._replace(energies=np.full(1001, np.nan)).finite
    assert not wavy._replace(forces=-np.ones(1001)).repulsive


def test_refusals():
    for options, error, message in (
        ({"distances": [2.0, 1.0]}, ConfigError, "ascending"),
        ({"distances": [0.0, 1.0]}, ConfigError, "above 0"),
        ({"elements": (29, 79)}, DataError, "Au"),
        ({"head": "none"}, ValueError, "none"),
    ):
        with pytest.raises(error, match=message):
            dimer_curves(toy_model(), site_energy=morse, **options)
