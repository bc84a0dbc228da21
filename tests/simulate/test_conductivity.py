"""Green-Kubo: fluxes along a trajectory, and the integral of an autocorrelation that is known."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk

from macejax.simulate.conductivity import WATT, green_kubo, heat_fluxes
from macejax.simulate.many import run_many
from tests.simulate.toy import LATTICE, morse, toy_model


def test_the_integral_of_a_known_correlation():
    """J of variance s^2 that forgets in a time tau: the integral of <J . J> is 3 s^2 tau."""
    rng = np.random.default_rng(0)
    interval, tau, spread, frames = 2.0, 50.0, 0.3, 100_000
    keep = np.exp(-interval / tau)
    noise = spread * np.sqrt(1 - keep**2) * rng.normal(size=(frames, 3))
    flux = np.zeros((frames, 3))
    for t in range(1, frames):
        flux[t] = keep * flux[t - 1] + noise[t]
    found = green_kubo(flux, interval, volume=500.0, temperature=300.0, longest=400.0)
    assert len(found) == 201 and found[0] == 0
    expected = WATT * spread**2 * tau / (500.0 * units.kB * 300.0**2)
    assert found[-1] == pytest.approx(expected, rel=0.1)
    short = flux[:7]
    direct = [np.mean([short[i] @ short[i + lag] for i in range(7 - lag)]) for lag in range(4)]
    steps = np.diff(green_kubo(short, 1.0, 1.0, 1.0)) * 3 * units.kB / WATT
    np.testing.assert_allclose(steps, [(a + b) / 2 for a, b in zip(direct, direct[1:], strict=False)], rtol=1e-10)
    with pytest.raises(ValueError, match="two frames"):
        green_kubo(flux[:1], 1.0, 1.0, 1.0)


def test_fluxes_along_a_trajectory_are_the_derivative_of_the_first_moment():
    """The toy's atoms see one cutoff far: in a finite piece of a run, sum r e changes by the integral of the flux."""
    atoms = bulk("Cu", cubic=True, a=LATTICE)
    atoms.pbc = False
    run = run_many(toy_model(), [atoms], 40, temperature=300.0, timestep=0.25, every=1, site_energy=morse).runs[0]
    fluxes = heat_fluxes(toy_model(), run.frames, site_energy=morse, layers=1)
    assert fluxes.num_compilations <= 2
    total = fluxes.potential + fluxes.convective

    def moment(frame) -> np.ndarray:
        from macejax.simulate import Calculator

        frame = frame.copy()
        frame.calc = Calculator(toy_model(), site_energy=morse)
        energies = frame.get_potential_energies() + 3.0  # E0 of copper
        kinetic = frame.get_masses() * np.sum(frame.get_velocities() ** 2, axis=1) / 2
        return (energies + kinetic) @ frame.positions

    changed = moment(run.frames[-1]) - moment(run.frames[0])
    weights = np.ones(41)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    np.testing.assert_allclose(weights @ total * 0.25 / 3, changed, atol=1e-4 * np.abs(changed).max(), rtol=0)
