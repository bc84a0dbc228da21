"""Dynamics on the device: the trajectory of ASE, no lost neighbours, restarts to the bit, and errors instead of nonsense."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.io import read
from ase.md.verlet import VelocityVerlet

from macejax.config import ConfigError, ModelConfig
from macejax.data.structure import DataError
from macejax.model.model import init_model
from macejax.simulate import Calculator, Ensemble, SimulationError, driver, list_shape, recorder, run_md, run_on_device
from macejax.simulate.md import drift
from macejax.simulate.program import first_evaluation, run_chunk
from macejax.simulate.restart import load_state
from tests.simulate.toy import LATTICE, flying_apart, hollow, morse, toy_model

SAME = 1e-10  # eV, eV/Angstrom, Angstrom: float64, other order of sums
REVERSED = 1e-8  # Angstrom, after 100 steps there and 100 back
ORDER_TWO = 0.5  # about 4, the ratio of energy fluctuations at a timestep and its half
DRIFT = {"float64": 0.005, "float32": 0.05}  # meV/atom/ps
MODEL = toy_model()
ENSEMBLES = {
    "nve": Ensemble("nve", 2.0, 400.0),
    "langevin": Ensemble("nvt", 2.0, 400.0, "langevin", 50.0),
    "csvr": Ensemble("nvt", 2.0, 400.0, "csvr", 50.0),
    "nose_hoover": Ensemble("nvt", 2.0, 400.0, "nose_hoover", 50.0),
    "npt": Ensemble("npt", 2.0, 400.0, "csvr", 50.0, 2.0, 200.0),
    "npt, free shape": Ensemble("npt", 2.0, 400.0, None, 50.0, 2.0, 200.0, free_shape=True),
}


def copper(repeat=1, **changes) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=LATTICE).repeat(repeat)
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def run(atoms: Atoms, steps: int, ensemble: Ensemble = ENSEMBLES["nve"], **options):
    """Outcome, and what was seen."""
    seen: list = []
    outcome = run_on_device(
        MODEL, atoms, steps, ensemble, observe=lambda _, state: seen.append(state), **{"site_energy": morse, "skin": 0.3, **options}
    )
    return outcome, seen


def bits(atoms: Atoms) -> list[bytes]:
    return [array.tobytes() for array in (atoms.positions, atoms.get_momenta(), atoms.cell.array, atoms.get_forces())]


@pytest.mark.x32
@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_nve_is_that_of_ase(pbc):
    """Also where jax's own default is float32."""
    ours, theirs = copper(2, pbc=pbc), copper(2, pbc=pbc)
    theirs.calc = Calculator(MODEL, site_energy=morse)
    expected: list = []
    run_md(theirs, 20, timestep=2.0, temperature=400.0, every=5, observe=lambda _, state: expected.append(state))
    _, seen = run(ours, 20, every=5)
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=SAME, rtol=0)
    np.testing.assert_allclose(ours.get_momenta(), theirs.get_momenta(), atol=SAME, rtol=0)
    np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=SAME, rtol=0)
    np.testing.assert_allclose(ours.get_stress(), theirs.get_stress(), atol=SAME, rtol=0)
    for a, b in zip(seen, expected, strict=True):
        np.testing.assert_allclose(np.array(a, float), np.array(b, float), atol=SAME, rtol=SAME)


def test_nve_is_of_second_order_and_conserves_momentum():
    spread = []
    for timestep in (4.0, 2.0):
        atoms = copper()
        outcome, seen = run(atoms, int(800 / timestep), Ensemble("nve", timestep, 600.0), every=1)
        spread.append(np.std([state.total_energy for state in seen]))
        np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-12, rtol=0)
        assert outcome.num_rebuilds > 1
    assert spread[0] / spread[1] == pytest.approx(4, abs=ORDER_TWO)


def test_time_reversal():
    """Through rebuilds of the list."""
    atoms = copper(2)
    run(atoms, 0)
    begin = atoms.positions.copy()
    outcome, _ = run(atoms, 100)
    assert outcome.num_rebuilds > 2 and np.abs(atoms.positions - begin).max() > 0.1
    atoms.set_momenta(-atoms.get_momenta())
    run(atoms, 100)
    np.testing.assert_allclose(atoms.positions, begin, atol=REVERSED, rtol=0)


@pytest.mark.physics_long
@pytest.mark.parametrize("dtype", DRIFT)
def test_nve_drift_over_20_ps(dtype):
    """64 atoms, 0.5 fs."""
    atoms = bulk("Cu", a=LATTICE, cubic=False).repeat(4)
    _, seen = run(atoms, 40_000, Ensemble("nve", 0.5, 600.0), every=20, dtype=dtype, skin=0.5)
    found = drift([state.time for state in seen], [state.total_energy for state in seen], len(atoms))
    assert abs(found) <= DRIFT[dtype]


@pytest.mark.parametrize("name", ["langevin", "csvr", "nose_hoover"])
def test_nvt_reaches_its_temperature(name):
    atoms = copper()
    _, seen = run(atoms, 3000, ENSEMBLES[name]._replace(timestep=4.0), every=5)
    kelvin = 400.0 if name == "langevin" else 400.0 * (len(atoms) - 1) / len(atoms)
    series = np.array([state.temperature for state in seen[50:]])
    error = series[: len(series) // 10 * 10].reshape(10, -1).mean(axis=1).std(ddof=1) / np.sqrt(10)
    assert abs(series.mean() - kelvin) < 3 * error and error < 0.05 * kelvin


@pytest.mark.thorough
def test_npt_reaches_its_pressure_through_a_shrinking_cell():
    """From L > 2 r_c to L < 2 r_c; the energy is that of a fresh list throughout."""
    atoms, fresh = copper(3), Calculator(MODEL, site_energy=morse, skin=0.0)
    atoms.set_cell(atoms.cell.array * 1.02, scale_atoms=True)

    def compare(atoms, state):
        seen.append(state)
        other = atoms.copy()
        other.calc = fresh
        assert state.potential_energy == pytest.approx(other.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), atol=1e-9, rtol=0)

    seen: list = []
    ensemble = Ensemble("npt", 4.0, 300.0, "csvr", 50.0, 60.0, 100.0, 0.02, free_shape=True)
    outcome = run_on_device(MODEL, atoms, 250, ensemble, site_energy=morse, skin=0.5, every=25, observe=compare)
    length = np.cbrt([state.volume for state in seen])
    assert length[0] > 2 * 4.5 * 1.1 and length[-1] < 2 * 4.5  # cutoff and skin
    assert outcome.num_replays > 0
    assert np.mean([state.pressure for state in seen[-4:]]) == pytest.approx(60, abs=8)
    cell = atoms.cell.array
    assert np.abs(cell - np.diag(np.diag(cell))).max() > 1e-3  # it is free


DENSER = Ensemble("npt", 4.0, 300.0, "langevin", 50.0, 10.0, 200.0, 0.02)  # a cell that shrinks until more neighbours come


def test_more_atoms_come_within_the_cutoff_than_there_were_slots(monkeypatch, tmp_path):
    """Of a list that has room for them all; the energy is that of a fresh one throughout."""
    monkeypatch.setattr(list_shape, "HEADROOM", 3.0)
    monkeypatch.setattr(list_shape, "NEAR_HEADROOM", 1.0)
    atoms, fresh, shapes = copper(2), Calculator(MODEL, site_energy=morse, skin=0.0), []
    atoms.set_cell(atoms.cell * 1.06, scale_atoms=True)  # the third shell comes in

    def compare(atoms, state):
        other = atoms.copy()
        other.calc = fresh
        assert state.potential_energy == pytest.approx(other.get_potential_energy(), abs=1e-9)
        shapes.append(load_state(tmp_path / "md.state").rows.shape if state.step else None)

    options = {"site_energy": morse, "skin": 0.3, "state_file": tmp_path / "md.state", "save_every": 5}
    outcome = run_on_device(MODEL, atoms, 100, DENSER, every=10, observe=compare, **options)
    assert outcome.num_replays > 0
    assert shapes[-1].near_slots > shapes[1].near_slots and shapes[-1].slots == shapes[1].slots > shapes[-1].near_slots


@pytest.mark.bits
@pytest.mark.parametrize("kind", ["toy", pytest.param("mace", marks=pytest.mark.thorough)])
def test_an_overflow_in_the_middle_is_that_of_arrays_that_were_large_enough(kind, monkeypatch):
    """To the bit, from the first step on."""
    grown, shapes = [], []
    model, ensemble, options = MODEL, DENSER, {"site_energy": morse}
    if kind == "mace":
        config = ModelConfig(elements=(29,), e0s=(0.0,), cutoff=4.0, hidden_irreps="4x0e + 4x1o", l_max=2, correlation=2, scale=0.01)
        model, ensemble, options = init_model(config, jax.random.key(0), np.float64), DENSER._replace(pressure=3.0), {}

    def chunk(program, state, rows, until, timestep):
        end, new, growths = run_chunk(program, state, rows, until, timestep)
        shapes.append(new.shape)
        if growths:  # of a chunk that begins with a list kept from the one before
            assert int(rows.rebuilds) > 2 and not np.allclose(rows.reference @ rows.cell, state.positions, atol=1e-3)
            step = next(s for s in range(int(state.step) + 1, until + 1) if run_chunk(program, state, rows, s, timestep)[2]) - 1
            before, kept, none = run_chunk(program, state, rows, step, timestep)
            ample = list_shape.reshape(kept, new.shape)
            start = first_evaluation(program, before, ample)[0]
            again, _, no = run_chunk(program, before._replace(found=start.found), ample, until, timestep)
            same = end.positions.tobytes() == again.positions.tobytes() and bool((end.cell == again.cell).all())
            grown.append(same and none == no == 0 and step > int(state.step))
        return end, new, growths

    monkeypatch.setattr(driver, "run_chunk", chunk)
    monkeypatch.setattr(list_shape, "HEADROOM", 1.0)
    tight, ample = copper(2), copper(2)
    outcome = run_on_device(model, tight, 100, ensemble, skin=0.3, every=9, **options)
    assert outcome.num_replays == 1 and shapes[-1].slots > shapes[0].slots and grown == [True]
    monkeypatch.setattr(driver, "shape_for", lambda *_: shapes[-1])
    assert run_on_device(model, ample, 100, ensemble, skin=0.3, every=9, **options).num_replays == 0
    assert bits(tight) == bits(ample)


@pytest.mark.bits
def test_where_an_overflow_falls_in_a_chunk_changes_no_bit(monkeypatch, tmp_path):
    """Looking at every step, saving and going on, against chunks of 100 steps."""
    monkeypatch.setattr(list_shape, "HEADROOM", 1.0)
    whole, looked, halves, file = copper(2), copper(2), copper(2), tmp_path / "md.state"
    assert run(whole, 90, DENSER, every=90)[0].num_replays == 1
    assert run(looked, 90, DENSER, every=1)[0].num_replays == 1
    for steps in (25, 55, 90):
        run(halves, steps, DENSER, state_file=file, restart=steps > 25, chunk=7)
    assert bits(whole) == bits(looked) == bits(halves)


def test_the_skin_changes_speed_alone():
    ends = []
    for skin in (0.05, 1.0):
        atoms = copper()
        outcome, _ = run(atoms, 100, skin=skin)
        ends.append((atoms.positions.copy(), outcome.num_rebuilds))
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-9, rtol=0)
    assert ends[0][1] > 10 * ends[1][1]


@pytest.mark.bits
@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_restart_and_looking_change_no_bit(name, tmp_path):
    """16 steps, against 8 and 8 with a look at every step."""
    whole, halves = copper(2), copper(2)
    ensemble, file = ENSEMBLES[name], tmp_path / "md.state"
    run(whole, 16, ensemble, skin=0.05)
    run(halves, 8, ensemble, skin=0.05, state_file=file, every=1)
    again = copper(2)
    _, seen = run(again, 16, ensemble, skin=0.05, state_file=file, restart=True, every=1)
    assert bits(again) == bits(whole) != bits(halves)
    assert [state.step for state in seen] == list(range(9, 17))
    assert int(load_state(file).rows.rebuilds) > 1


def test_files_of_a_killed_run_go_on_where_its_state_was_saved(tmp_path):
    """Frames that it wrote after that are written once."""
    paths, state = (tmp_path / "md.xyz", tmp_path / "md.jsonl"), tmp_path / "md.state"

    def simulate(steps, atoms, resume=None, fail_at=None):
        with recorder(*paths, resume=resume, overwrite=resume is None) as record:

            def observe(atoms, seen):
                record(atoms, seen)
                if seen.step == fail_at:
                    raise OSError(28, "No space left on device")

            options = {"site_energy": morse, "every": 2, "state_file": state, "save_every": 5, "outputs": record.sizes}
            run_on_device(MODEL, atoms, steps, ENSEMBLES["langevin"], observe=observe, restart=resume is not None, **options)
        return [path.read_bytes() for path in paths]

    expected = simulate(12, copper())
    with pytest.raises(SimulationError, match=r"step 8: an output could not be written.*No space left.*md\.state holds"):
        simulate(12, copper(), fail_at=8)
    saved = load_state(state)
    assert int(saved.state.step) == 5 and paths[1].stat().st_size > saved.outputs["log"]
    assert simulate(12, copper(), resume=saved.outputs) == expected
    assert len(read(paths[0], ":")) == 7
    assert [json.loads(line)["step"] for line in paths[1].read_text().splitlines()] == list(range(0, 13, 2))
    paths[1].write_bytes(b"")
    with pytest.raises(DataError, match="md.jsonl has 0 bytes"), recorder(*paths, resume=saved.outputs):
        pass
    with pytest.raises(DataError, match="wrote log and trajectory, not log"), recorder(None, paths[1], resume=saved.outputs):
        pass


def test_a_damaged_or_foreign_state_is_refused(tmp_path):
    file = tmp_path / "md.state"
    run(copper(), 2, state_file=file)
    content = file.read_bytes()
    for damaged in (b"", content[:40], content[:-9], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], b"x" * 100):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"md\.state: is damaged"):
            run(copper(), 4, state_file=file, restart=True)
    file.write_bytes(content)
    for atoms, options, name in (
        (copper(2), {}, "numbers"),
        (copper(), {"seed": 1}, "seed"),
        (copper(), {"skin": 0.2}, "skin"),
        (copper(pbc=False), {}, "pbc"),
        (copper(), {"ensemble": Ensemble("nve", 1.0, 400.0)}, "timestep"),
    ):
        with pytest.raises(DataError, match=f"cannot go on like this; its {name}"):
            run(atoms, 4, **{"state_file": file, "restart": True, **options})
    with pytest.raises(FileNotFoundError):
        run(copper(), 4, state_file=tmp_path / "none", restart=True)
    with pytest.raises(ConfigError, match="at step 2 already, beyond the 1 steps"):
        run(copper(), 1, state_file=file, restart=True)
    other = MODEL._replace(config=MODEL.config.model_copy(update={"e0s": tuple(e0 + 1 for e0 in MODEL.config.e0s)}))
    with pytest.raises(DataError, match="cannot go on like this; its model"):
        run_on_device(other, copper(), 4, ENSEMBLES["nve"], site_energy=morse, skin=0.3, state_file=file, restart=True)


def test_runs_that_explode_end_in_the_very_step():
    atoms = copper()
    atoms.positions[0] += 1.7
    with pytest.raises(SimulationError, match=r"step \d+: the temperature is .* exploded"):
        run(atoms, 500, Ensemble("nve", 10.0, 300.0), chunk=400)

    def spoilt(params, vectors, graph):
        energy = morse(params, vectors, graph)
        return energy / (1 - (graph.nodes["positions"][0, 0] ** 2 > 0.02**2))

    with pytest.raises(SimulationError, match=r"step \d+: the total energy is (nan|inf|-inf)"):
        run(copper(), 500, Ensemble("nve", 2.0, 600.0), site_energy=spoilt)


def test_a_hole_without_forces_ends_a_run_in_the_very_step():
    """The potential energy falls a million times as far as atoms have kinetic energy, in one step and with nothing hot."""
    ends = []
    for chunk in (7, 400):
        with pytest.raises(SimulationError, match=r"step \d+: the total energy is -4\S*e\+06 eV, after one step .* hole") as caught:
            run(flying_apart(), 500, Ensemble("nve", 2.0), site_energy=hollow, chunk=chunk)
        ends.append(str(caught.value))
    assert ends[0] == ends[1]
    atoms = flying_apart()
    run(atoms, 100, Ensemble("nve", 2.0), site_energy=lambda *given: hollow(*given) / 1e3)  # 4000 eV are not that much
    assert atoms.get_distance(0, 1) > 4.0


def test_ramps_stop_with_a_typed_error():
    """A model that attracts at every distance collapses; 3000 K and 100 GPa."""
    atoms = copper(2)
    ensemble = Ensemble("npt", 5.0, 3000.0, None, 20.0, 100.0, 20.0, 1.0, free_shape=True)
    with pytest.raises(SimulationError, match="step"):
        run_on_device(toy_model(r0=-1.0, depth=20.0), atoms, 2000, ensemble, site_energy=morse)


def test_a_second_run_compiles_nothing():
    """Of another temperature, seed and model of the same configuration."""
    traced = []

    def counting(params, vectors, graph):
        traced.append(1)
        return morse(params, vectors, graph)

    counts = []
    for seed in (0, 1):
        run_on_device(toy_model(depth=0.4 + 0.1 * seed), copper(), 3, Ensemble("nvt", 1.0, 300.0 + seed), site_energy=counting, seed=seed)
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0
    config = MODEL.config
    assert driver._site_energy(config, "highest") is driver._site_energy(config.model_copy(deep=True), "highest")


def test_seeds():
    ends = []
    for seed in (1, 1, 2):
        atoms = copper()
        run(atoms, 5, ENSEMBLES["langevin"], seed=seed)
        ends.append(atoms.positions)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 1e-4


def test_float32_is_the_model_s_alone():
    """Positions are float64: far from the origin nothing is lost, and forces still sum to zero."""
    near, far = copper(2), copper(2)
    for atoms, move in ((near, 0.0), (far, 1e4)):
        atoms.rattle(0.05, seed=0)
        atoms.positions += move
        run(atoms, 10, dtype="float32")
        assert np.abs(atoms.get_forces().sum(axis=0)).max() < 1e-12
    np.testing.assert_allclose(far.get_forces(), near.get_forces(), atol=1e-5, rtol=0)
    exact = near.copy()
    exact.calc = Calculator(MODEL, site_energy=morse)
    error = np.abs(near.get_forces() - exact.get_forces()).max()
    assert 1e-9 < error < 1e-5


@pytest.mark.parametrize(
    ("ensemble", "message"),
    [
        (Ensemble("nvt"), "needs a temperature"),
        (Ensemble("nph"), "ensemble must be"),
        (Ensemble("npt", 1.0, 300.0), "periodic"),
        (Ensemble("nve", 0.0), "timestep"),
        (Ensemble("nve", temperature=-1.0), "temperature"),
        (Ensemble("nve", pressure=1.0), "nve would ignore pressure"),
        (Ensemble("nvt", 1.0, 300.0, free_shape=True), "nvt would ignore free_shape"),
        (Ensemble("nvt", 1.0, 300.0, compressibility=1.0), "nvt would ignore compressibility"),
        (Ensemble("nve", relaxation_time=10.0), "nve would ignore relaxation_time"),
        (Ensemble("nve", thermostat="csvr"), "nve would ignore thermostat"),
        (Ensemble("nvt", 1.0, 300.0, "berendsen"), "thermostat must be"),
        (Ensemble("nvt", 1.0, 300.0, relaxation_time=0.0), "relaxation_time must be above 0"),
    ],
)
def test_ensembles_are_checked(ensemble, message):
    with pytest.raises(ConfigError, match=message):
        run(molecule("H2O"), 1, ensemble)


@pytest.mark.thorough
def test_heads(tmp_path):
    """One of several, with its own E0s; a model whose head is not named is refused."""
    config = ModelConfig(
        elements=(1, 8), heads=("a", "b"), e0s=((-1.0, -2.0), (-3.0, -4.0)), cutoff=3.0, hidden_irreps="2x0e", l_max=1, correlation=1
    )
    model = init_model(config, jax.random.key(0), np.float64)
    with pytest.raises(ValueError, match="a, b"):
        run_on_device(model, molecule("H2O"), 0)
    for head in config.heads:
        atoms, other = molecule("H2O"), molecule("H2O")
        run_on_device(model, atoms, 0, head=head)
        other.calc = Calculator(model, head=head)
        assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=SAME)


@pytest.mark.thorough
def test_a_mace_under_dynamics(tmp_path):
    """What holds for the toy potential holds for a model: order of the integrator, time reversal, NVE as in ASE, restarts to the bit."""
    config = ModelConfig(elements=(1, 8), e0s=(0.0, 0.0), cutoff=3.5, hidden_irreps="4x0e + 4x1o", l_max=2, correlation=2, scale=0.3)
    model = init_model(config, jax.random.key(1), np.float64)

    def water() -> Atoms:
        atoms = molecule("H2O", cell=[4.0, 4.2, 4.4], pbc=True).repeat((2, 1, 1))
        atoms.rattle(0.05, seed=0)
        return atoms

    def go(atoms: Atoms, steps: int, ensemble: Ensemble, **options: object) -> list:
        seen: list = []
        run_on_device(model, atoms, steps, ensemble, skin=0.3, observe=lambda _, state: seen.append(state), **options)
        return seen

    spread = []
    for timestep in (0.5, 0.25):
        atoms = water()
        seen = go(atoms, int(100 / timestep), Ensemble("nve", timestep, 300.0), every=1)
        spread.append(np.std([state.total_energy for state in seen]))
    assert spread[0] / spread[1] == pytest.approx(4, abs=ORDER_TWO)

    nve = Ensemble("nve", 0.5, 300.0)
    ours, theirs = water(), water()
    go(ours, 0, nve)
    begin, velocities = ours.positions.copy(), ours.get_velocities()
    theirs.set_velocities(velocities)
    theirs.calc = Calculator(model)
    go(ours, 100, nve)
    assert np.abs(ours.positions - begin).max() > 0.1
    VelocityVerlet(theirs, 0.5 * units.fs).run(100)
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=REVERSED, rtol=0)
    np.testing.assert_allclose(ours.get_forces().sum(axis=0), 0, atol=SAME * len(ours), rtol=0)
    ours.set_momenta(-ours.get_momenta())
    go(ours, 100, nve)
    np.testing.assert_allclose(ours.positions, begin, atol=REVERSED, rtol=0)

    for name in ("langevin", "npt, free shape"):
        ensemble = ENSEMBLES[name]._replace(timestep=0.5)
        whole, halves, again, file = water(), water(), water(), tmp_path / f"{name}.state"
        go(whole, 16, ensemble)
        go(halves, 8, ensemble, state_file=file, every=1)
        go(again, 16, ensemble, state_file=file, restart=True, every=3)
        assert bits(again) == bits(whole) != bits(halves)


def test_options_are_checked():
    for atoms, options, error, message in (
        (copper(), {"restart": True}, ConfigError, "state file"),
        (copper(), {"every": 0}, ConfigError, "every"),
        (copper(), {"dtype": "float16"}, ConfigError, "dtype"),
        (copper(), {"skin": -1.0}, ConfigError, "skin"),
        (Atoms("Au"), {}, DataError, "Au"),
        (Atoms("Cu", [(np.nan, 0, 0)]), {}, DataError, "positions"),
    ):
        with pytest.raises(error, match=message):
            run(atoms, 1, **options)
