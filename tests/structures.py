"""The zoo: small structures, each of which has broken some force field. `atoms(name)` and `structure(name)`, names in ZOO."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, make_supercell, molecule, nanotube

from macejax.data.read import from_atoms
from macejax.data.structure import Structure

CUTOFF = 5.0  # Angstrom, the cutoff that the zoo is made for
SMALL_CUTOFF = 3.0  # Angstrom, for tests that would be slow with the other


def atoms(name: str) -> Atoms:
    """The structure of that name, as ase.Atoms, the same at every call."""
    return ZOO[name]()


def structure(name: str) -> Structure:
    """The structure of that name, without labels."""
    return from_atoms(atoms(name), source=name)


def labelled(name: str, seed: int = 0) -> Structure:
    """The structure of that name with random labels: energy, forces, and stress where it is a crystal. They fit nothing."""
    bare = structure(name)
    rng = np.random.default_rng([seed, *name.encode()])
    stress = rng.normal(size=(3, 3)) if bare.pbc.all() else None
    return bare._replace(
        energy=float(rng.normal()),
        forces=rng.normal(size=bare.positions.shape),
        stress=None if stress is None else (stress + stress.T) / 2,
    )


def hydrogen_pair(distance: float) -> Atoms:
    """H2 at any distance (Angstrom)."""
    return Atoms("H2", [[0, 0, 0], [0, 0, distance]])


def rattled(image: Atoms, amplitude: float = 0.05, seed: int = 0) -> Atoms:
    """The same atoms, moved at random by `amplitude` (Angstrom) in the root mean square."""
    image.positions += np.random.default_rng(seed).normal(scale=amplitude, size=image.positions.shape)
    return image


def _benzene() -> Atoms:
    return rattled(molecule("C6H6"))


def _perovskite() -> Atoms:
    scaled = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return rattled(Atoms("SrTiO3", scaled_positions=scaled, cell=[3.9] * 3, pbc=True))


def _silicon8() -> Atoms:
    return rattled(bulk("Si", "diamond", a=5.43, cubic=True))


def _salt() -> Atoms:
    return rattled(bulk("NaCl", "rocksalt", a=5.64) * (2, 2, 2))


def _rhombohedral() -> Atoms:
    cell = Atoms(cell=[12.0, 12.0, 12.0, 10.0, 10.0, 10.0]).cell
    return Atoms("Bi2", scaled_positions=[[0.23, 0.23, 0.23], [0.77, 0.77, 0.77]], cell=cell, pbc=True)


def _left_handed() -> Atoms:
    image = _silicon8()
    cell = image.cell.array[[1, 0, 2]]
    return Atoms(image.numbers, image.positions, cell=cell, pbc=True)


def _needle() -> Atoms:
    return Atoms("CuH", [[0, 0, 0], [0.4, 0.5, 20.0]], cell=np.diag([1.6, 1.6, 50.0]), pbc=True)


def _triclinic22() -> Atoms:
    rng = np.random.default_rng(22)
    cell = np.array([[6.2, 0, 0], [-2.1, 6.9, 0], [1.9, -2.6, 7.4]])
    return Atoms("Si10O12", scaled_positions=rng.uniform(-0.5, 1.5, (22, 3)), cell=cell, pbc=True)


def _slab() -> Atoms:
    image = rattled(fcc111("Cu", size=(2, 2, 3), vacuum=6.0))
    image.pbc = [True, True, False]
    image.positions[0] += [0, 0, -27.0]  # drifted through the vacuum and out of the cell
    image.positions[11] += [0, 0, 4.0]
    image.positions[5] += 3 * image.cell.array[0] - 2 * image.cell.array[1]
    return image


def _slab_without_row() -> Atoms:
    image = _slab()
    cell = image.cell.array.copy()
    cell[2] = 0
    return Atoms(image.numbers, image.positions, cell=cell, pbc=[True, True, False])


def _nanotube() -> Atoms:
    image = rattled(nanotube(3, 0, length=1))
    image.pbc = [False, False, True]
    return image


def _dummy_cell() -> Atoms:
    image = molecule("CH3CH2OH")
    image.cell = np.eye(3)
    image.pbc = False
    return image


def _far_away() -> Atoms:
    image = molecule("CH3CH2OH")
    image.positions += [1e4, -1e4, 3e3]
    return image


def _far_away_crystal() -> Atoms:
    image = _silicon8()
    image.positions[::2] += 1850 * image.cell.array[0]
    image.positions[1] -= 700 * image.cell.array[2]
    return image


def _fragments() -> Atoms:
    other = molecule("CO2")
    other.positions += [40.0, 0, 0]
    return molecule("H2O") + other


def _crowd() -> Atoms:
    """About 200 neighbours within the cutoff."""
    return rattled(bulk("Cu", "fcc", a=2.2) * (2, 1, 1), 0.02)


def _supercell() -> Atoms:
    return make_supercell(bulk("Si", "diamond", a=5.43), [[1, 1, 0], [0, 1, 1], [1, 0, 2]])


ZOO: dict[str, Callable[[], Atoms]] = {
    "hydrogen_atom": lambda: Atoms("H", [[0, 0, 0]]),
    "hydrogen_0.74": lambda: hydrogen_pair(0.74),
    "hydrogen_0.1": lambda: hydrogen_pair(0.1),
    "hydrogen_1e-8": lambda: hydrogen_pair(1e-8),
    "hydrogen_0": lambda: hydrogen_pair(0.0),
    "hydrogen_inside_cutoff": lambda: hydrogen_pair(CUTOFF * (1 - 1e-8)),
    "hydrogen_outside_cutoff": lambda: hydrogen_pair(CUTOFF * (1 + 1e-8)),
    "water": lambda: rattled(molecule("H2O")),
    "ethanol": lambda: rattled(molecule("CH3CH2OH")),
    "benzene": _benzene,
    "perovskite": _perovskite,
    "copper1": lambda: bulk("Cu", "fcc", a=3.6),
    "silicon2": lambda: bulk("Si", "diamond", a=5.43),
    "silicon8": _silicon8,
    "silicon_supercell": _supercell,
    "salt": _salt,
    "rhombohedral": _rhombohedral,
    "left_handed": _left_handed,
    "needle": _needle,
    "triclinic22": _triclinic22,
    "slab": _slab,
    "slab_without_row": _slab_without_row,
    "nanotube": _nanotube,
    "zero_cell": lambda: molecule("CH3CH2OH"),
    "dummy_cell": _dummy_cell,
    "far_away": _far_away,
    "far_away_crystal": _far_away_crystal,
    "fragments": _fragments,
    "atom_in_vacuum": lambda: Atoms("O", [[0.1, 0.2, 0.3]], cell=np.diag([20.0] * 3), pbc=True),
    "crowd": _crowd,
}
ELEMENTS = (1, 6, 8, 11, 14, 17, 22, 29, 38, 83)  # of the zoo
COINCIDENT = ("hydrogen_0", "hydrogen_1e-8")  # no direction: energies must be finite, forces need not mean anything
