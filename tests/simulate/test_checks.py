"""Options and atoms that no engine can do anything with: each refuses them in a sentence, and at once."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from macejax.checkpoint.model_file import save_model
from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.simulate import Calculator, Ensemble, relax, relax_many, run_many, run_md, run_on_device
from macejax.simulate.many import relax_one_by_one
from macejax.simulate.many.systems import lanes_of
from macejax.simulate.signed import load_outputs
from tests.simulate.test_record import small_mace
from tests.simulate.toy import LATTICE, morse, toy_model

NAN, INF = float("nan"), float("inf")
OF_ENSEMBLE = ("ensemble", "timestep", "temperature", "thermostat", "relaxation_time", "pressure", "barostat_time", "free_shape")


def crystal(held: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=LATTICE)
    if held:
        atoms.set_constraint(FixAtoms(range(held)))
    return atoms


def with_ase(atoms: Atoms, steps=1, **options):
    atoms.calc = Calculator(toy_model(), site_energy=morse)
    return run_md(atoms, steps, **options)


def on_device(atoms: Atoms, steps=1, **options):
    of_ensemble = {"name" if name == "ensemble" else name: options.pop(name) for name in OF_ENSEMBLE if name in options}
    return run_on_device(toy_model(), atoms, steps, Ensemble(**of_ensemble), site_energy=morse, **options).thermo


def of_many(atoms: Atoms, steps=1, **options):
    return run_many(toy_model(), [atoms], steps, site_energy=morse, **options).runs[0].thermo[-1]


ENGINES = pytest.mark.parametrize("engine", [with_ase, on_device, of_many])
NPT = {"ensemble": "npt", "temperature": 300.0}


@ENGINES
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 2.5}, r"steps must be a whole number, not 2\.5"),
        ({"steps": 0.3 / 0.1}, "steps must be a whole number"),
        ({"steps": "10"}, "steps must be a whole number"),
        ({"steps": -1}, "steps must be 0 or more, not -1"),
        ({"every": 2.0}, "every must be a whole number"),
        ({"every": 0}, "every must be 1 or more"),
        ({"timestep": INF}, "timestep must be above 0 fs and finite, not inf"),
        ({"timestep": NAN}, "timestep must be above 0"),
        ({"temperature": INF}, "temperature is 0 K or more, and finite"),
        ({"temperature": NAN}, "temperature is 0 K or more, and finite"),
        ({"temperature": -1.0}, "temperature is 0 K or more"),
        (NPT | {"pressure": NAN}, "pressure must be a finite number"),
        (NPT | {"pressure": INF}, "pressure must be a finite number"),
        (NPT | {"relaxation_time": 0.0}, "relaxation_time must be above 0 fs"),
        (NPT | {"barostat_time": -1.0}, "barostat_time must be above 0 fs"),
        (NPT | {"barostat_time": INF}, "barostat_time must be above 0 fs"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"seed": 10**30}, "seed must be from 0 to"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"max_temperature": 0}, "max_temperature must be above 0 K, not 0"),
        ({"max_temperature": NAN}, "max_temperature must be above 0 K"),
    ],
)
def test_numbers_that_no_run_has(engine, options, message):
    with pytest.raises(ConfigError, match=message):
        engine(crystal(), **options)


@pytest.mark.parametrize(("option", "value"), [("save_every", 1.5), ("chunk", 2.0), ("chunk", 0), ("skin", INF)])
def test_numbers_of_the_device_engines(option, value):
    with pytest.raises(ConfigError, match=f"{option} must be"):
        on_device(crystal(), **{option: value})
    if option != "chunk":
        with pytest.raises(ConfigError, match=f"{option} must be"):
            of_many(crystal(), **{option: value})


@ENGINES
def test_numbers_of_numpy_are_whole(engine):
    numbers = {"steps": np.int64(2), "every": np.int32(1), "seed": np.int64(3)}
    assert engine(crystal(), max_temperature=np.float32(1e4), temperature=np.float32(10), **numbers).step == 2


@ENGINES
def test_held_atoms_do_not_move_with_the_cell(engine):
    with pytest.raises(ConfigError, match="npt moves every atom with the cell: take the constraints away"):
        engine(crystal(held=2), **NPT)


@ENGINES
@pytest.mark.parametrize("mass", [0.0, -1.0, NAN])
def test_masses(engine, mass):
    atoms = crystal()
    atoms.set_masses([63.5, 63.5, mass, mass])
    with pytest.raises(DataError, match=rf"atom 2 \(Cu\) has the mass {mass}"):
        engine(atoms)


@pytest.mark.parametrize("engine", [on_device, of_many])
def test_where_all_atoms_are_held(engine):
    with pytest.raises(ConfigError, match="all atoms are held"):
        engine(crystal(held=4))


@pytest.mark.parametrize("symbols", ["Cu2", "CuO"])
def test_csvr_has_velocities_to_scale(symbols):
    atoms = Atoms(symbols, [[0, 0, 0], [2.5, 0, 0]])
    atoms.set_velocities(np.full((2, 3), 0.01))
    with pytest.raises(ConfigError, match="csvr scales velocities, and these atoms move as a whole only"):
        on_device(atoms, ensemble="nvt", temperature=300.0, thermostat="csvr")


def test_a_free_shape_of_numpy_goes_into_a_state_file(tmp_path):
    on_device(crystal(), free_shape=np.True_, state_file=tmp_path / "md.state", **NPT)
    assert load_outputs(tmp_path / "md.state") == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmax": 0.0}, "fmax must be above 0"),
        ({"fmax": -1.0}, "fmax must be above 0"),
        ({"fmax": NAN}, "fmax must be above 0"),
        ({"fmax": INF}, "fmax must be above 0 eV/Angstrom and finite"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"cell": True, "pressure": NAN}, "pressure must be a finite number"),
    ],
)
def test_relaxations(options, message):
    atoms = crystal()
    atoms.calc = Calculator(toy_model(), site_energy=morse)
    with pytest.raises(ConfigError, match=message):
        relax(atoms, **options)
    with pytest.raises(ConfigError, match=message):
        relax_many(toy_model(), [atoms], site_energy=morse, **options)


def test_the_largest_stress_is_a_number():
    with pytest.raises(ConfigError, match=r"system 0 \(Cu4\): smax must be above 0 GPa"):
        relax_many(toy_model(), [crystal()], cell=True, smax=INF, site_energy=morse)


def test_one_system_without_a_list_is_refused():
    for run in (run_many, relax_many, relax_one_by_one):
        with pytest.raises(ConfigError, match="systems must be a list of Atoms"):
            run(toy_model(), crystal(), steps=1)


def test_a_model_may_be_the_path_of_its_file(tmp_path):
    """A file that several systems name is read once: they run as those of one model."""

    def nothing(params, vectors, graph):
        return 0 * jnp.sum(vectors, axis=(1, 2))

    path, atoms = tmp_path / "model.mace", Atoms("OH", [[0, 0, 0], [0, 0, 1.0]])
    save_model(path, small_mace())
    for model in (path, str(path), [path, path]):
        models, lanes = lanes_of(model, 2, None)
        assert len(models) == 1 and lanes == [0, 0] and models[0].config == small_mace().config
    e0s = sum(small_mace().config.e0s)
    assert run_many(path, [atoms], 0, site_energy=nothing).runs[0].thermo[0].potential_energy == e0s
    assert relax_many([path], [atoms], site_energy=nothing).results[0].end.energy == e0s
    assert run_on_device(path, atoms, 0, site_energy=nothing).thermo.potential_energy == e0s
