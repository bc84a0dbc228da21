"""Label the bundled example data with GFN2-xTB (Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 2019, 15, 1652) through tblite.

Ethanol: frames of Langevin trajectories; the test frames come from a trajectory of their own. Dry ice: a periodic crystal, distorted and
strained at random, with stress. Isolated atoms of the same level of theory give the E0s of both. Run from anywhere:

    pip install tblite && python experiments/demo_data/run.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.io import write
from ase.md.langevin import Langevin
from ase.spacegroup import crystal
from tblite.ase import TBLite

DEMO = Path(__file__).resolve().parents[2] / "macejax" / "demo"
TIMESTEP = 0.5  # fs; the O-H stretch has a period of 9 fs
EQUILIBRATION = 2000  # steps
SPACING = 50  # steps between frames, 25 fs
ETHANOL_TRAIN = {300: 200, 500: 300, 800: 300}  # temperature (K): frames
ETHANOL_TEST = {500: 200}
DRY_ICE_TRAIN, DRY_ICE_TEST = 100, 40
GROUND_STATE = {"H": 2, "C": 3, "O": 3}  # spin multiplicity of the free atom


def main() -> None:
    """Write the four files of macejax/demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=DEMO)
    parser.add_argument("--check-stress", action="store_true", help="only compare the stress of one crystal with finite differences")
    arguments = parser.parse_args()
    if arguments.check_stress:
        check_stress()
        return
    arguments.output.mkdir(exist_ok=True)
    atoms = [isolated_atom(symbol) for symbol in GROUND_STATE]
    save(arguments.output / "ethanol_train.xyz", atoms + ethanol(ETHANOL_TRAIN, seed=1))
    save(arguments.output / "ethanol_test.xyz", ethanol(ETHANOL_TEST, seed=2))
    save(arguments.output / "dry_ice_train.xyz", atoms[1:] + dry_ice(DRY_ICE_TRAIN, seed=3))
    save(arguments.output / "dry_ice_test.xyz", dry_ice(DRY_ICE_TEST, seed=4))


def isolated_atom(symbol: str) -> Atoms:
    """A free atom in its ground state."""
    return label(Atoms(symbol), "IsolatedAtom", multiplicity=GROUND_STATE[symbol])


def ethanol(frames: dict[int, int], seed: int) -> list[Atoms]:
    """Frames of one Langevin trajectory for each temperature, in order of time."""
    result = []
    for temperature, number in frames.items():
        rng = np.random.default_rng([seed, temperature])
        atoms = molecule("CH3CH2OH")
        atoms.calc = calculator()
        atoms.set_velocities(rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * temperature / atoms.get_masses())[:, None])
        dynamics = Langevin(atoms, TIMESTEP * units.fs, temperature_K=temperature, friction=0.01 / units.fs, rng=rng, fixcm=False)
        dynamics.run(EQUILIBRATION)
        for _ in range(number):
            dynamics.run(SPACING)
            frame = Atoms(atoms.numbers, atoms.positions - atoms.get_center_of_mass())
            result.append(label(frame, f"ethanol_{temperature}K"))
    return result


def dry_ice(number: int, seed: int) -> list[Atoms]:
    """Distorted Pa-3 crystals of CO2 (Simon and Peters, Acta Cryst. B36, 2750, 1980): volume 0.9 to 1.1, shear, turned molecules."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(number):
        atoms = crystal(["C", "O"], [(0, 0, 0), (0.1185, 0.1185, 0.1185)], spacegroup=205, cellpar=[5.624] * 3 + [90] * 3)
        strain = rng.normal(0, 0.015, (3, 3))
        deformation = (np.eye(3) + (strain + strain.T) / 2) * rng.uniform(0.9, 1.1) ** (1 / 3)
        # Molecules move, C-O bonds do not: only the centres follow the strain. Atoms 0 to 3 are carbon.
        for carbon in range(4):
            bonds = atoms.get_distances(carbon, range(4, 12), mic=True, vector=True)
            nearest = np.argsort(np.linalg.norm(bonds, axis=1))[:2]
            atoms.positions[4 + nearest] = atoms.positions[carbon] @ deformation + bonds[nearest] @ small_rotation(rng, 0.1)
            atoms.positions[carbon] = atoms.positions[carbon] @ deformation
        atoms.set_cell(atoms.cell @ deformation)
        atoms.positions += rng.normal(0, 0.02, (12, 3))
        result.append(label(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True), "dry_ice"))
    return result


def small_rotation(rng: np.random.Generator, angle: float) -> np.ndarray:
    """Rotation [3, 3] by about `angle` radians around a random axis (Cayley transform of a skew matrix)."""
    x, y, z = rng.normal(0, angle / 2, 3)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.linalg.solve(np.eye(3) + skew, np.eye(3) - skew)


def label(atoms: Atoms, config_type: str, multiplicity: int | None = None) -> Atoms:
    """The frame with REF_energy (eV), REF_forces (eV/Angstrom) and, where periodic, REF_stress (eV/Angstrom^3, ASE's sign)."""
    atoms.positions = atoms.positions.round(8)  # what the file keeps
    atoms.calc = calculator(multiplicity)
    atoms.info = {"config_type": config_type, "REF_energy": round(float(atoms.get_potential_energy()), 8)}
    atoms.arrays["REF_forces"] = atoms.get_forces()
    if atoms.pbc.all():
        atoms.info["REF_stress"] = atoms.get_stress(voigt=False).round(10)
    atoms.calc = None
    return atoms


def calculator(multiplicity: int | None = None) -> TBLite:
    """GFN2-xTB, self-consistent to a tenth of the default tolerance."""
    return TBLite(method="GFN2-xTB", accuracy=0.1, multiplicity=multiplicity, verbosity=0)


def check_stress(step: float = 2e-4) -> None:
    """Print the largest difference between the stress of a distorted crystal and finite differences of its energy."""
    atoms = dry_ice(1, seed=5)[0]
    stress, numeric = atoms.info["REF_stress"], np.zeros((3, 3))
    for i in range(3):
        for j in range(i, 3):
            energies = []
            for sign in (1, -1):
                deformation = np.eye(3)
                deformation[i, j] += sign * step / 2
                deformation[j, i] += sign * step / 2
                strained = atoms.copy()
                strained.set_cell(atoms.cell @ deformation, scale_atoms=True)
                energies.append(label(strained, "strained").info["REF_energy"])
            numeric[i, j] = numeric[j, i] = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
    print(f"largest stress component {np.abs(stress).max():.5f}, largest difference {np.abs(stress - numeric).max():.1e} eV/Angstrom^3")


def save(path: Path, frames: list[Atoms]) -> None:
    """Write extxyz and say what is in it."""
    write(path, frames, format="extxyz", columns=["symbols", "positions", "REF_forces"])
    forces = np.concatenate([frame.arrays["REF_forces"] for frame in frames])
    print(f"{path.name}: {len(frames)} frames, rms force {np.sqrt(np.mean(forces**2)):.3f} eV/Angstrom, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
