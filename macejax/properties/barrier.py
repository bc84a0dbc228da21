"""Barrier between two minima by a nudged elastic band."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.geometry import find_mic
from ase.mep import NEB
from ase.mep.neb import NEBTools
from ase.optimize import FIRE

from macejax.data.structure import DataError


class ReactionPath(NamedTuple):
    """A band of images from one minimum to another."""

    images: list[Atoms]
    energies: np.ndarray  # [images] eV
    barrier: float  # eV, from the first image to the highest one
    reaction_energy: float  # eV, last image less the first
    largest_force: float  # eV/Angstrom, that is left on the band
    converged: bool


def reaction_path(
    initial: Atoms,
    final: Atoms,
    calculator: Callable[[], Calculator],
    *,
    images: int = 7,
    fmax: float = 0.02,
    steps: int = 300,
    spring: float = 0.1,
) -> ReactionPath:
    """Minimum energy path by ASE's nudged elastic band with a climbing image (Henkelman et al., J. Chem. Phys. 113, 9901 (2000)).

    The band settles first, then its highest image climbs to the saddle point. `macejax.differentiate.crystal.barrier` makes both ends of
    the barrier exact, and differentiates it by the parameters.

    Args:
      initial, final: relaxed structures of the same atoms in the same order.
      calculator: makes a calculator; every image has its own, for each keeps a neighbour list. Let them share what they compile
        (`Calculator.share_program`).
      images: number of images, ends included.
      fmax: largest force that is left on the band, eV/Angstrom.
      steps: most steps of each of the two stages.
      spring: between images, eV/Angstrom^2.

    Raises:
      DataError: the ends are not the same atoms in the same cell, or a constraint of one holds what moves on the way.
    """
    if not np.array_equal(initial.numbers, final.numbers) or not np.allclose(initial.cell, final.cell) or any(initial.pbc != final.pbc):
        raise DataError("a path joins two structures of the same atoms, in the same order and in the same cell.")
    if images < 3:
        raise ValueError(f"a path has at least 3 images, ends included, not {images}.")
    way = find_mic(final.positions - initial.positions, initial.cell, initial.pbc)[0]
    for end, moved in ((initial, way), (final, -way)):
        other = end.copy()
        other.set_positions(end.positions + moved)
        if not np.allclose(other.positions, end.positions + moved):
            raise DataError(
                "a constraint of an end holds atoms that move on the way to the other: relax both with the same atoms held in place."
            )
    band = [initial.copy() for _ in range(images - 1)] + [final.copy()]
    for image in band:
        image.calc = calculator()
    neb = NEB(band, k=spring, method="improvedtangent", allow_shared_calculator=False)
    neb.interpolate(method="idpp", mic=bool(initial.pbc.any()))
    FIRE(neb, logfile=None).run(fmax=5 * fmax, steps=steps)
    neb.climb = True
    converged = bool(FIRE(neb, logfile=None).run(fmax=fmax, steps=steps))
    energies = np.array([image.get_potential_energy() for image in band])
    largest = float(NEBTools(band).get_fmax(k=spring, climb=True, method="improvedtangent"))
    return ReactionPath(band, energies, float(energies.max() - energies[0]), float(energies[-1] - energies[0]), largest, converged)
