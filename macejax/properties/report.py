"""Figures and pages about phonons and equations of state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from macejax.checkpoint.atomic import write_atomically
from macejax.page import image, page, subplots, table
from macejax.properties.eos import EquationOfStateFit
from macejax.properties.phonon import IMAGINARY, BandStructure, DensityOfStates, Thermodynamics

BLUE, ORANGE, RED = "#1f6feb", "#e08a1e", "#d1242f"
PER_MOL = units.mol / units.kJ  # kJ/mol of 1 eV


def phonon_figure(bands: BandStructure, states: DensityOfStates) -> Any:
    """matplotlib Figure: frequencies along the path, and their density."""
    figure, (left, right) = subplots(1, 2)
    left.plot(bands.distances, bands.frequencies, color=BLUE, lw=1.2)
    left.set_xticks(bands.ticks, [label.replace("G", "Γ") for label in bands.labels])
    left.set(title="Phonons", ylabel="frequency (THz)", xlim=(bands.distances[0], bands.distances[-1]))
    for tick in bands.ticks:
        left.axvline(tick, color="#9aa5b1", lw=0.6)
    right.plot(states.frequencies, states.density, color=ORANGE, lw=1.2)
    right.fill_between(states.frequencies, states.density, color=ORANGE, alpha=0.15)
    right.set(title="Density of states", xlabel="frequency (THz)", ylabel="states/THz of a primitive cell", ylim=(0, None))
    if bands.frequencies.min() < -IMAGINARY:
        left.axhspan(min(bands.frequencies.min(), 0), 0, color=RED, alpha=0.08)
        left.axhline(0, color=RED, lw=0.8)
    return figure


def thermodynamics_figure(found: Thermodynamics) -> Any:
    """matplotlib Figure: free energy and heat capacity over temperature."""
    figure, (left, right) = subplots(1, 2)
    left.plot(found.temperatures, 1000 * found.free_energy, color=BLUE)
    left.set(title="Helmholtz energy of the vibrations", xlabel="temperature (K)", ylabel="meV for a primitive cell")
    right.plot(found.temperatures, found.heat_capacity / units.kB, color=ORANGE)
    right.set(title="Heat capacity at constant volume", xlabel="temperature (K)", ylabel="k$_B$ for a primitive cell", ylim=(0, None))
    return figure


def write_phonon_report(
    path: str | os.PathLike,
    atoms: Atoms,
    bands: BandStructure,
    states: DensityOfStates,
    thermal: Thermodynamics | None,
    cards: list[tuple[str, str]],
    facts: Mapping[str, str],
) -> None:
    """A page, and beside it the figure as PNG.

    Args:
      path: of the page (HTML).
      atoms: the crystal.
      bands, states: what is drawn.
      thermal: None where the crystal is unstable.
      cards: value and what it is.
      facts: name and value of what else should be known.

    Raises:
      OSError: the disk refuses.
    """
    figure = phonon_figure(bands, states)
    figure.savefig(Path(path).with_suffix(".png"), dpi=160)
    sections = [("Phonons", image(figure, "phonons"))]
    if thermal is not None:
        rows = thermal_rows(thermal)
        sections += [("Thermodynamics", image(thermodynamics_figure(thermal), "thermodynamics")), ("Numbers", table(THERMAL_HEAD, rows))]
    else:
        sections += [("Thermodynamics", "<p>None: imaginary frequencies (drawn below zero) mean that the crystal is unstable.</p>")]
    sections.append(("The calculation", table((), list(facts.items()))))
    title = f"Phonons of {atoms.get_chemical_formula(empirical=True)}"
    write_atomically(Path(path), page(title, "harmonic, at constant volume", cards, sections).encode())


THERMAL_HEAD = ("T (K)", "F (kJ/mol)", "S (J/K/mol)", "Cv (J/K/mol)")


def thermal_rows(found: Thermodynamics, most: int = 12) -> list[tuple[str, ...]]:
    """Rows of `THERMAL_HEAD`, per mole of primitive cells; of many temperatures, `most` of them."""
    chosen = np.unique(np.linspace(0, len(found.temperatures) - 1, min(most, len(found.temperatures))).round().astype(int))
    columns = (found.free_energy * PER_MOL, found.entropy * PER_MOL * 1000, found.heat_capacity * PER_MOL * 1000)
    return [(f"{found.temperatures[i]:.0f}", *(f"{column[i]:.3f}" for column in columns)) for i in chosen]


def eos_figure(found: EquationOfStateFit, number: int) -> Any:
    """matplotlib Figure: energies over volumes with the fit, and what the fit leaves; per atom, of `number` atoms."""
    figure, (left, right) = subplots(1, 2)
    fine = np.linspace(found.volumes.min(), found.volumes.max(), 200)
    lowest = found.energy
    left.plot(fine / number, 1000 * (found.curve(fine) - lowest) / number, color=BLUE, lw=1.2, label="Birch-Murnaghan")
    left.plot(found.volumes / number, 1000 * (found.energies - lowest) / number, "o", color=ORANGE, ms=5, label="model")
    left.axvline(found.volume / number, color="#9aa5b1", ls=":", lw=1)
    left.set(title="Energy", xlabel="volume (Å³/atom)", ylabel="above the minimum (meV/atom)")
    left.legend(frameon=False)
    right.plot(found.volumes / number, 1e6 * (found.energies - found.curve(found.volumes)) / number, "o-", color=ORANGE, ms=4, lw=0.8)
    right.axhline(0, color="#1f2933", lw=0.8)
    right.set(title="Model less fit", xlabel="volume (Å³/atom)", ylabel="µeV/atom")
    return figure


def write_eos_report(path: str | os.PathLike, atoms: Atoms, found: EquationOfStateFit, facts: Mapping[str, str]) -> None:
    """A page, and beside it the figure as PNG.

    Args:
      path: of the page (HTML).
      atoms: the crystal as it was given.
      found: the fit.
      facts: name and value of what else should be known.

    Raises:
      OSError: the disk refuses.
    """
    number = len(atoms)
    figure = eos_figure(found, number)
    figure.savefig(Path(path).with_suffix(".png"), dpi=160)
    cards = [
        (f"{found.bulk_modulus:.2f} GPa", "bulk modulus"),
        (f"{found.derivative:.3f}", "its derivative by pressure"),
        (f"{found.volume / number:.4f} Å³", "volume of an atom"),
        (f"{found.scale:.5f}", "lengths at the minimum over those given"),
    ]
    fitted = found.curve(found.volumes)
    rows = [
        (f"{v / number:.4f}", f"{e / number:.6f}", f"{1e6 * (e - f) / number:+.2f}")
        for v, e, f in zip(found.volumes, found.energies, fitted, strict=True)
    ]
    sections = [
        ("Energy over volume", image(figure, "equation of state")),
        ("Numbers", table(("volume (Å³/atom)", "energy (eV/atom)", "less the fit (µeV/atom)"), rows)),
        ("The calculation", table((), list(facts.items()))),
    ]
    title = f"Equation of state of {atoms.get_chemical_formula(empirical=True)}"
    write_atomically(Path(path), page(title, "Birch-Murnaghan, third order", cards, sections).encode())
