"""Runs of many systems that are stopped, or killed, and gone on with."""

from __future__ import annotations

import json

import numpy as np
import pytest

from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.simulate import SimulationError, load_outputs, run_on_device
from macejax.simulate.many import record_each, run_many
from tests.simulate.test_many_md import copper, zoo
from tests.simulate.toy import morse, toy_model

HOT = {"timestep": 2.0, "temperature": 900.0, "site_energy": morse, "skin": 0.2, "every": 4}


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    monkeypatch.setattr("macejax.simulate.many.md.CHUNK", 4)


def at_call(number):
    """A `stop` that gives a reason when it is asked for the `number`-th time."""
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        return "an alarm" if calls == number else None

    return stop


def bits(atoms):
    parts = (atoms.positions, atoms.get_momenta(), atoms.cell.array, atoms.get_forces(), np.float64(atoms.get_potential_energy()))
    return b"".join(part.tobytes() for part in parts)


@pytest.mark.bits
@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
@pytest.mark.parametrize("batch_atoms", [2048, 12])  # all at once; some waiting when the run is stopped, some at their end
def test_a_run_that_was_stopped_has_the_bits_of_one_that_was_not(tmp_path, ensemble, batch_atoms):
    systems = [copper(seed=k, amplitude=0.1) for k in range(3)] + ([copper((2, 1, 1))] if ensemble == "npt" else zoo()[1:])
    models = [toy_model()] * (len(systems) - 1) + [toy_model(depth=0.35)]
    options = HOT | {"ensemble": ensemble, "batch_atoms": batch_atoms}
    whole = run_many(models, systems, 60, **options)
    state = tmp_path / "md.state"
    parts = [run_many(models, systems, 60, **options, state_file=state, stop=at_call(4)).runs]
    assert any("ended by an alarm" in run.stopped for run in parts[0])
    parts.append(run_many(models, systems, 60, **options, state_file=state, restart=True, stop=at_call(4)).runs)
    parts.append(run_many(models, systems, 60, **options, state_file=state, restart=True).runs)
    for k, run in enumerate(whole.runs):
        assert bits(parts[-1][k].atoms) == bits(run.atoms) and parts[-1][k].stopped == run.stopped
        assert [seen for part in parts for seen in part[k].thermo] == run.thermo
    assert whole.summary.lists > len(systems)


def test_files_of_a_killed_run_go_on_where_its_state_was_saved(tmp_path):
    state, frames = tmp_path / "md.state", 0

    def simulate(folder, resume=None, fail_at=None, steps=24):
        nonlocal frames
        record, frames = record_each(tmp_path / folder, resume=resume), 0

        def observe(place, atoms, seen):
            nonlocal frames
            frames += 1
            if frames == fail_at:
                raise OSError(28, "No space left on device")
            record(place, atoms, seen)

        options = HOT | {"batch_atoms": 12, "state_file": state, "save_every": 8, "outputs": record.sizes, "observe": observe}
        return run_many(toy_model(), zoo(), steps, ensemble="nvt", restart=resume is not None, **options)

    def contents(folder):
        return {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}

    simulate("whole")
    state.unlink()
    with pytest.raises(SimulationError, match=r"system 3 \(Cu8\), step 4: an output could not be written.*No space left.*md.state holds"):
        simulate("killed", fail_at=20)
    saved = load_outputs(state)
    assert contents("killed").keys() >= saved.keys()
    assert any(len(contents("killed")[name]) > size for name, size in saved.items())
    simulate("killed", resume=saved)
    assert contents("killed") == contents("whole")
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "2.jsonl").read_text().splitlines()]
    assert steps == list(range(0, 25, 4))
    saved, before = load_outputs(state), contents("killed")
    with pytest.raises(ConfigError, match="beyond the 20 steps"):  # what is refused changes no file
        simulate("killed", resume={name: size - 1 for name, size in saved.items()}, steps=20)
    assert contents("killed") == before
    (tmp_path / "killed" / "0.xyz").write_text("")
    with pytest.raises(DataError, match="0.xyz has 0 bytes, but had"):
        simulate("killed", resume=saved)
    assert contents("killed") == before | {"0.xyz": b""}


def test_the_log_of_an_earlier_run_is_not_that_of_this_one(tmp_path):
    run_many(toy_model(), [copper()], 4, **HOT, observe=record_each(tmp_path))
    record = record_each(tmp_path, overwrite=True)
    assert record.log(0) is None and record.sizes() == {}
    run_many(toy_model(), [copper()], 4, **HOT, observe=record)
    assert record.log(0) == tmp_path / "0.jsonl" and record.sizes()["0.xyz"] == (tmp_path / "0.xyz").stat().st_size


def test_a_run_may_go_on_beyond_its_end(tmp_path):
    """Each system at its own pace: what has ended goes on too."""
    state = tmp_path / "md.state"
    options = HOT | {"ensemble": "nvt", "batch_atoms": 12}
    whole = run_many(toy_model(), zoo(), 40, **options).runs
    run_many(toy_model(), zoo(), 20, **options, state_file=state)
    found = run_many(toy_model(), zoo(), 40, **options, state_file=state, restart=True).runs
    for run, expected in zip(found, whole, strict=True):
        assert [seen.step for seen in run.thermo] == [24, 28, 32, 36, 40] and not run.stopped
        np.testing.assert_allclose(run.atoms.positions, expected.atoms.positions, rtol=0, atol=1e-10)
    again = run_many(toy_model(), zoo(), 40, **options, state_file=state, restart=True).runs
    assert [bits(run.atoms) for run in again] == [bits(run.atoms) for run in found] and not any(run.thermo for run in again)


def test_one_that_exploded_stays_where_it_was(tmp_path):
    systems, state = [copper(), copper(amplitude=0.1, seed=1)], tmp_path / "md.state"
    options = HOT | {"max_temperature": [1.0, 9000.0], "state_file": state, "every": np.int64(4), "skin": np.float32(0.25)}
    first = run_many(toy_model(), systems, 20, **options, stop=at_call(3)).runs
    found = run_many(toy_model(), systems, 20, **options, restart=True).runs
    assert "exploded" in first[0].stopped and found[0].stopped == first[0].stopped and bits(found[0].atoms) == bits(first[0].atoms)
    assert "alarm" in first[1].stopped and not found[1].stopped and found[1].thermo[-1].step == 20


def test_a_damaged_or_foreign_state_is_refused(tmp_path):
    state = tmp_path / "md.state"
    systems, options = [copper(), copper(seed=1)], HOT | {"state_file": state}
    with pytest.raises(ConfigError, match="needs the state file"):
        run_many(toy_model(), systems, 4, **HOT, restart=True)
    with pytest.raises(ConfigError, match="save_every must be 1 or more, not 0"):
        run_many(toy_model(), systems, 4, **options, save_every=0)
    with pytest.raises(FileNotFoundError):
        run_many(toy_model(), systems, 8, **options, restart=True)
    run_many(toy_model(), systems, 8, **options)
    foreign = {
        r"system 1 \(Cu8\) was another system": {"systems": [copper(), copper((2, 1, 1))]},
        r"system 0 \(Cu4\) was another system, or started elsewhere": {"systems": systems[::-1]},
        "has 2 systems, not 1": {"systems": systems[:1]},
        r"the temperature of system 1 \(Cu4\) was 900.0, not 300.0": {"temperature": [900.0, 300.0]},
        "it had another model": {"model": toy_model(depth=0.1)},
        "its every was 4, not 2": {"every": 2},
        "its ensemble was nve, not nvt": {"ensemble": "nvt"},
    }
    for sentence, changes in foreign.items():
        arguments = {"model": toy_model(), "systems": systems, "steps": 8, **options, **changes}
        with pytest.raises(DataError, match=sentence):
            run_many(**arguments, restart=True)
    with pytest.raises(ConfigError, match=r"system 0 \(Cu4\) is at step 8 already, beyond the 4 steps"):
        run_many(toy_model(), systems, 4, **options, restart=True)
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(DataError, match="do not agree with their checksum"):
        run_many(toy_model(), systems, 8, **options, restart=True)
    run_on_device(toy_model(), copper(), 2, site_energy=morse, state_file=state)
    with pytest.raises(DataError, match="is the state of a run of one structure, not the state of a run of several"):
        run_many(toy_model(), systems, 8, **options, restart=True)
