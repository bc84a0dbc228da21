"""The systems that every program is timed on: the same structures, from a seed."""

from __future__ import annotations

import ase
import ase.build
import numpy as np

WATER_DENSITY = 0.0334  # molecules per cubic Angstrom, at 1 g/cm^3
ALLOY = ("Ti", "Al", "V", "Cr", "Ni")
# One conformer of aspirin, good enough to be timed.
ASPIRIN = """\
O 1.2333 0.5540 0.7792
O -0.6952 -2.7148 -0.7502
O 0.7958 -2.1843 0.8685
O 1.7813 0.8105 -1.4821
C -0.0857 0.6088 0.4403
C -0.7927 -0.5515 0.1244
C -0.7288 1.8464 0.4133
C -2.1426 -0.4741 -0.2184
C -2.0787 1.9238 0.0706
C -2.7855 0.7636 -0.2453
C -0.1409 -1.8536 0.1477
C 2.1094 0.6715 -0.3113
C 3.5305 0.5996 0.1635
H -0.1851 2.7545 0.6593
H -2.7247 -1.3605 -0.4564
H -2.5797 2.8872 0.0506
H -3.8374 0.8238 -0.5090
H 3.7290 1.4184 0.8593
H 4.2045 0.6969 -0.6924
H 3.7105 -0.3659 0.6426
H -0.2555 -3.5916 -0.7337
"""


def make(name: str) -> list[ase.Atoms]:
    """The structures of a system: `aspirin-20`, `water-192`, `silicon-64`, `alloy-2000` (atoms, rounded to whole cells), or `mixed`.

    Raises:
      ValueError: an unknown name.
    """
    kind, _, number = name.partition("-")
    if kind == "mixed":
        return [*make("aspirin-6"), *make("silicon-64"), *make("water-24"), *make("alloy-32")]
    makers = {"aspirin": _aspirin, "water": _water, "silicon": _silicon, "alloy": _alloy}
    if kind not in makers or not number.isdigit():
        raise ValueError(f"there is no system {name!r}: choose mixed, or one of {', '.join(makers)} with a number, such as water-192.")
    return makers[kind](int(number))


def _aspirin(count: int) -> list[ase.Atoms]:
    lines = [line.split() for line in ASPIRIN.splitlines()]
    base = ase.Atoms([line[0] for line in lines], [[float(x) for x in line[1:]] for line in lines])
    rng = np.random.default_rng(0)
    frames = [base.copy() for _ in range(count)]
    for frame in frames:
        frame.positions += rng.normal(scale=0.05, size=frame.positions.shape)
    return frames


def _water(atoms: int) -> list[ase.Atoms]:
    """Molecules on a lattice, turned at random."""
    edge = max(round((atoms / 3) ** (1 / 3)), 1)
    spacing = WATER_DENSITY ** (-1 / 3)
    rng = np.random.default_rng(0)
    molecule = ase.build.molecule("H2O")
    box = ase.Atoms(cell=[edge * spacing] * 3, pbc=True)
    for place in np.ndindex(edge, edge, edge):
        turned = molecule.copy()
        turned.rotate(rng.uniform(0, 360), rng.normal(size=3))
        turned.translate(np.array(place) * spacing - turned.get_center_of_mass())
        box += turned
    return [box]


def _crystal(unit: ase.Atoms, atoms: int) -> ase.Atoms:
    """The supercell of a cubic cell that comes closest to a number of atoms, rattled by 0.1 Angstrom."""
    edge = max(round((atoms / len(unit)) ** (1 / 3)), 1)
    crystal = unit * (edge, edge, edge)
    crystal.rattle(0.1, seed=1)
    return crystal


def _silicon(atoms: int) -> list[ase.Atoms]:
    return [_crystal(ase.build.bulk("Si", cubic=True), atoms)]


def _alloy(atoms: int) -> list[ase.Atoms]:
    crystal = _crystal(ase.build.bulk("Al", a=4.05, cubic=True), atoms)
    crystal.symbols[:] = np.random.default_rng(0).choice(ALLOY, len(crystal))
    return [crystal]
