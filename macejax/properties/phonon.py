"""Phonons of a crystal with phonopy: force constants from the exact Hessian of a supercell, or from displacements."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms, units

from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.properties.held import refuse_held

DISPLACEMENT = 0.01  # Angstrom
KJ_PER_MOL = units.kJ / units.mol  # eV
FLAT = 1e-2  # THz, what rounding makes of a frequency that is zero
IMAGINARY = 0.05  # THz; less of it is what a supercell that folds forces back makes of sound


class BandStructure(NamedTuple):
    """Frequencies along a path through the Brillouin zone."""

    distances: np.ndarray  # [Q] 1/Angstrom, along the path
    frequencies: np.ndarray  # [Q, modes] THz; imaginary ones are negative
    ticks: np.ndarray  # [T] distances of the special points
    labels: list[str]  # [T] their names; "X|U" where the path jumps


class DensityOfStates(NamedTuple):
    """Density of phonon states."""

    frequencies: np.ndarray  # [F] THz
    density: np.ndarray  # [F] states/THz of a primitive cell; its integral is the number of modes
    lowest: float  # THz, of all q points of the mesh; negative where it is imaginary


class Thermodynamics(NamedTuple):
    """Harmonic crystal at constant volume, for one primitive cell."""

    temperatures: np.ndarray  # [T] K
    free_energy: np.ndarray  # [T] eV, Helmholtz, of the vibrations alone
    entropy: np.ndarray  # [T] eV/K
    heat_capacity: np.ndarray  # [T] eV/K


def phonons(
    atoms: Atoms,
    supercell: Sequence[int] | np.ndarray,
    *,
    method: Literal["hessian", "displacements"] = "hessian",
    displacement: float = DISPLACEMENT,
    symmetrize: bool = True,
) -> Any:
    """A `phonopy.Phonopy` of the crystal with its force constants in it.

    With "hessian" they are exact: products of the Hessian of the supercell with unit vectors of the atoms of one primitive cell. With
    "displacements" they are differences of forces, which any calculator gives, and phonopy reduces the work by symmetry.

    Args:
      atoms: relaxed crystal with a calculator; for "hessian" a macejax one, or another that has its `get_hessian`.
      supercell: repetitions along the lattice vectors [3], or a matrix [3, 3]. Force constants across more than half of it fold back: make
        it wider than twice the reach of the model for exact frequencies off its own q points.
      method: where force constants come from.
      displacement: Angstrom, for "displacements".
      symmetrize: make a shift of the whole cost nothing, exactly, and the matrix symmetric.

    Raises:
      ConfigError: phonopy is not installed; a supercell that is none. DataError: the crystal is not periodic in all directions, or has a
        constraint; its calculator has no Hessian, or its model reads more than atoms and cell.
    """
    if method not in ("hessian", "displacements"):
        raise ValueError(f"method must be 'hessian' or 'displacements', not {method!r}.")
    matrix = supercell_matrix(supercell)
    if not 0 < displacement < np.inf:
        raise ConfigError(f"displacement must be above 0 Angstrom and finite, not {displacement}.")
    refuse_unfit(atoms)
    if method == "hessian" and not hasattr(atoms.calc, "get_hessian"):
        raise DataError(f"{type(atoms.calc).__name__} has no Hessian: take method 'displacements', or the calculator of one model.")
    if getattr(getattr(atoms.calc, "model", None), "config", None) is not None and atoms.calc.model.config.joint_embedding:
        raise DataError("the model reads the charge or another input of a structure, and nobody knows that of a supercell.")
    found = _without_forces(atoms, matrix)
    if method == "hessian":
        large = _atoms(found.supercell)
        rows = np.asarray(found.primitive.p2s_map)
        blocks = atoms.calc.get_hessian(large, of=rows).reshape(len(rows), 3, len(large), 3)
        found.force_constants = np.swapaxes(blocks, 1, 2)
    else:
        found.generate_displacements(distance=displacement, is_plusminus=True)
        found.forces = [_forces(_atoms(cell), atoms.calc) for cell in found.supercells_with_displacements]
        found.produce_force_constants(fc_calculator=None, calculate_full_force_constants=False)
    if symmetrize:
        found.symmetrize_force_constants(show_drift=False)
    return found


def band_structure(found: Any, points: int = 50, path: str | None = None) -> BandStructure:
    """Frequencies along a path through the Brillouin zone of the primitive cell.

    Args:
      found: from `phonons`.
      points: q points between two special points, about.
      path: names of special points as ASE writes them, such as "GXWKGL"; "," is a jump. The usual one of the lattice where it is not given.

    Raises:
      ConfigError: a path of points that the lattice does not have, or a part of it that has no two.
    """
    if path is not None:
        _check_path(path, found)
    cell = _atoms(found.primitive).cell
    special = cell.bandpath(path=path, npoints=0, pbc=True)
    distances: list[np.ndarray] = []
    frequencies: list[np.ndarray] = []
    ticks: list[float] = []
    labels: list[str] = []
    begin = 0.0
    for part in _segments(special.path):
        for first, second in zip(part[:-1], part[1:], strict=True):
            ends = np.array([special.special_points[first], special.special_points[second]])
            weights = np.linspace(0, 1, points)[:, None]
            q = ends[0] * (1 - weights) + ends[1] * weights
            length = float(np.linalg.norm((ends[1] - ends[0]) @ cell.reciprocal()))
            if ticks and ticks[-1] == begin and labels[-1] != first:
                labels[-1] = f"{labels[-1]}|{first}"
            elif not ticks:
                ticks.append(begin)
                labels.append(first)
            distances.append(begin + length * weights[:, 0])
            frequencies.append(_frequencies(found, q))
            begin += length
            ticks.append(begin)
            labels.append(second)
    return BandStructure(np.concatenate(distances), np.concatenate(frequencies), np.array(ticks), labels)


def density_of_states(found: Any, mesh: Sequence[int] | float = 60.0, points: int = 400) -> DensityOfStates:
    """Density of states by the tetrahedron method.

    Args:
      found: from `phonons`.
      mesh: q points along the three reciprocal vectors, or a length (Angstrom) as phonopy takes it: larger is denser.
      points: of frequency.
    """
    frequencies = found.run_mesh(mesh, is_gamma_center=True).frequencies
    low, high = float(np.min(frequencies)), float(np.max(frequencies))
    margin = 0.02 * (high - low) + 1e-3
    found.run_total_dos(freq_min=low - margin, freq_max=high + margin, freq_pitch=(high - low + 2 * margin) / points)
    return DensityOfStates(np.array(found.total_dos.frequency_points), np.array(found.total_dos.dos), low)


def thermodynamics(found: Any, temperatures: Sequence[float] | np.ndarray, mesh: Sequence[int] | float = 60.0) -> Thermodynamics:
    """Harmonic free energy, entropy and heat capacity of one primitive cell.

    Args:
      found: from `phonons`.
      temperatures: [T] K.
      mesh: as for `density_of_states`.

    Raises:
      ConfigError: a temperature below 0 K, or none that is finite. DataError: the crystal has imaginary frequencies, and so no harmonic
        free energy.
    """
    kelvin = np.asarray(temperatures, float)
    if not ((kelvin >= 0) & np.isfinite(kelvin)).all():
        raise ConfigError(f"temperatures are 0 K or more, and finite, not {kelvin[~((kelvin >= 0) & np.isfinite(kelvin))][0]}.")
    frequencies = np.asarray(found.run_mesh(mesh, is_gamma_center=True).frequencies)
    lowest = float(frequencies.min())
    if lowest < -IMAGINARY:
        raise DataError(f"the crystal is unstable: it has an imaginary frequency of {-lowest:.3g}i THz, and no harmonic free energy.")
    # The three modes at q = 0 that cost nothing are no oscillators.
    found.run_thermal_properties(temperatures=kelvin, cutoff_frequency=FLAT)
    result = found.thermal_properties
    per_kelvin = KJ_PER_MOL / 1000
    return Thermodynamics(
        np.array(result.temperatures),
        np.array(result.free_energy) * KJ_PER_MOL,
        np.array(result.entropy) * per_kelvin,
        np.array(result.heat_capacity) * per_kelvin,
    )


def wide(atoms: Atoms, width: float) -> tuple[int, int, int]:
    """Repetitions of a cell by which opposite faces are at least `width` (Angstrom) apart."""
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    first, second, third = (int(n) for n in np.ceil(width / heights - 1e-6))
    return first, second, third


def need_phonopy() -> tuple[Any, Any]:
    """phonopy's classes of a calculation and of a cell.

    Raises:
      ConfigError: phonopy is not installed.
    """
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError as error:
        raise ConfigError("phonons need the package phonopy: pip install 'macejax[phonons]'.") from error
    return Phonopy, PhonopyAtoms


def refuse_unfit(atoms: Atoms) -> None:
    """Raise DataError where a structure is not periodic in all three directions, or has a constraint."""
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise DataError("phonons need a crystal, periodic in all three directions.")
    refuse_held(atoms, "phonons")


def supercell_matrix(supercell: Sequence[int] | np.ndarray) -> np.ndarray:
    """[3, 3] int, of repetitions along the lattice vectors [3] or of a matrix [3, 3].

    Raises:
      ConfigError: it is neither, or holds less than a cell.
    """
    given = np.asarray(supercell)
    if given.shape not in ((3,), (3, 3)) or given.dtype.kind not in "iuf" or not (given == np.rint(given)).all():
        raise ConfigError(f"a supercell is three whole numbers, or a matrix of 3 x 3 of them, not {supercell}.")
    if given.shape == (3,) and not (given >= 1).all():
        raise ConfigError(f"a supercell repeats the cell once or more along each lattice vector, not {supercell}.")
    matrix = (np.diag(given) if given.shape == (3,) else given).astype(int)
    if round(np.linalg.det(matrix)) < 1:
        raise ConfigError(f"the matrix of a supercell has a determinant of 1 or more, not {np.linalg.det(matrix):.0f}: {matrix.tolist()}.")
    return matrix


def refuse_path(atoms: Atoms, path: str) -> None:
    """Refuse a path before the work of `phonons`.

    Raises:
      ConfigError: a path of points that the lattice of the crystal does not have, or a part of it that has no two.
    """
    _check_path(path, _without_forces(atoms, np.eye(3, dtype=int)))


def _check_path(path: str, found: Any) -> None:
    known = _atoms(found.primitive).cell.bandpath(path="", npoints=0, pbc=True).special_points
    parts = _segments(path)
    if any(len(part) < 2 or not known.keys() >= {*part} for part in parts):
        raise ConfigError(f"path {path!r} must join two or more of the lattice's special points, {', '.join(known)}; a comma is a jump.")


def _without_forces(atoms: Atoms, matrix: np.ndarray) -> Any:
    """A `phonopy.Phonopy` of the crystal that knows its cells alone."""
    phonopy, cells = need_phonopy()
    unit = cells(numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions(), masses=atoms.get_masses())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="primitive_matrix defaulted")  # phonopy 3 had another default
        return phonopy(unit, supercell_matrix=matrix, primitive_matrix="auto")


def _atoms(cell: Any) -> Atoms:
    return Atoms(numbers=cell.numbers, scaled_positions=cell.scaled_positions, cell=cell.cell, masses=cell.masses, pbc=True)


def _forces(atoms: Atoms, calculator: Any) -> np.ndarray:
    atoms.calc = calculator
    return atoms.get_forces()


def _frequencies(found: Any, q: np.ndarray) -> np.ndarray:
    return np.asarray(found.run_qpoints(q).frequencies)


def _segments(path: str) -> list[list[str]]:
    """ "GXU,KG" -> [["G", "X", "U"], ["K", "G"]]; names may have digits."""
    from ase.dft.kpoints import parse_path_string

    return parse_path_string(path)
