"""Checkpoints: restored bit by bit, and never from something damaged."""

from __future__ import annotations

import json
import os
import shutil
from typing import NamedTuple

import numpy as np
import optax
import pytest

from macejax.checkpoint import manifest, training
from macejax.checkpoint.lock import LockError, lock
from macejax.checkpoint.manifest import MANIFEST, CheckpointError, read_manifest
from macejax.checkpoint.training import has_checkpoint, remove_leftovers, restore_checkpoint, save_checkpoint


class Tiny(NamedTuple):
    step: object
    params: object
    opt_state: object
    best: object


def state(seed: int = 0) -> Tiny:
    random = np.random.default_rng(seed)
    params = {"params": {"a": random.normal(size=(5, 3)), "b": {"0e": random.normal(size=4).astype(np.float32)}}}
    return Tiny(np.int64(seed), params, optax.adam(1e-3).init(params), np.asarray(np.nan))


def same(left: Tiny, right: Tiny) -> bool:
    import jax

    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.asarray(a).dtype == b.dtype and np.asarray(a).tobytes() == b.tobytes() for a, b in pairs)


@pytest.fixture
def saved(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "last", step, state(step), {"epoch": step}, keep=2)
    return tmp_path / "last"


def warnings_of(folder, template=None):
    said = []
    found, info = restore_checkpoint([folder], template or state(9), said.append)
    return found, info, said


def test_round_trip_is_bitwise_and_old_ones_go(saved):
    found, info, said = warnings_of(saved)
    assert same(state(3), found) and type(found) is Tiny and info["epoch"] == 3 and not said
    assert sorted(path.name for path in saved.iterdir()) == ["000000002", "000000003"]


def test_relative_paths_are_as_good(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    save_checkpoint(Path("run/last"), 7, state(7), {}, keep=1)
    assert same(state(7), warnings_of(Path("run/last"))[0])


def test_every_kind_of_damage_is_seen(saved, tmp_path):
    """Truncation at 10 offsets and a flipped bit at 100 seeded ones, over all files; missing, empty, swapped, strange and linked files."""
    random = np.random.default_rng(0)
    good = saved / "000000003"
    files = sorted(path.relative_to(good) for path in good.rglob("*") if path.is_file())

    def damaged(change) -> None:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(good, copy)
        change(copy)
        with pytest.raises(CheckpointError):
            read_manifest(copy)

    def flip(path) -> None:
        content = bytearray(path.read_bytes())
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        path.write_bytes(bytes(content))

    for name in [*files, *random.choice(files, size=100 - len(files))]:
        damaged(lambda copy, name=name: flip(copy / name))
    for name in files:
        for part in random.integers(0, (good / name).stat().st_size, size=10):
            damaged(lambda copy, name=name, part=part: (copy / name).write_bytes((copy / name).read_bytes()[:part]))
        damaged(lambda copy, name=name: (copy / name).unlink())
    damaged(lambda copy: (copy / "more").write_bytes(b"x"))
    damaged(lambda copy: (copy / "link").symlink_to(copy / files[0]))


def test_manifest_that_leads_out_of_the_folder_is_refused(saved):
    from macejax.checkpoint.manifest import _digest

    path = saved / "000000003" / MANIFEST
    content = json.loads(path.read_text())
    content["files"]["../000000002/_METADATA"] = {"sha256": "", "bytes": 1}
    del content["sha256"]
    content["sha256"] = _digest(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="no name that a checkpoint has"):
        read_manifest(saved / "000000003")


def test_damaged_newest_is_reported_and_the_one_before_is_used(saved):
    next((saved / "000000003").rglob("ocdbt*/d/*")).write_bytes(b"gone")
    found, info, said = warnings_of(saved)
    assert same(state(2), found) and info["step"] == 2
    assert len(said) == 1 and "000000003" in said[0] and "is not used" in said[0]
    assert (saved / "000000003.damaged").is_dir()


def test_what_the_disk_does_not_give_is_damaged(saved, monkeypatch):
    def sha256(path):
        if "000000003" in path.parts:
            raise OSError(5, "Input/output error", str(path))
        return real(path)

    real = manifest._sha256
    monkeypatch.setattr(manifest, "_sha256", sha256)
    found, _, said = warnings_of(saved)
    assert same(state(2), found) and "cannot be read" in said[0] and "Input/output error" in said[0]


def test_no_good_one_is_an_error_and_none_at_all_another(saved, tmp_path):
    for name in ("000000002", "000000003"):
        (saved / name / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="no checkpoint of this run is whole.*interrupted"):
        warnings_of(saved)
    assert has_checkpoint(saved)
    with pytest.raises(CheckpointError, match=r"000000002\.damaged, .*000000003\.damaged were found damaged before"):
        warnings_of(saved)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        warnings_of(tmp_path / "empty")


def test_another_shape_dtype_or_structure_is_an_error(saved):
    wrong = state(3)
    for params in (
        {"params": {"a": np.zeros((5, 4)), "b": wrong.params["params"]["b"]}},
        {"params": {"a": np.zeros((5, 3), np.float32), "b": {"0e": np.zeros(4, np.float32)}}},
    ):
        with pytest.raises(CheckpointError, match="params/params/a is .* there and .* here"):
            warnings_of(saved, wrong._replace(params=params))
    with pytest.raises(CheckpointError, match="in this run only"):
        warnings_of(saved, wrong._replace(params={**wrong.params, "more": np.zeros(1)}))


def test_a_failing_disk_leaves_the_older_ones(saved, monkeypatch):
    import macejax.checkpoint.manifest as manifest

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write_atomically", full)
    with pytest.raises(OSError, match="000000004 could not be written.*No space left"):
        save_checkpoint(saved, 4, state(4), {}, keep=1)
    found, _, _ = warnings_of(saved)
    assert same(state(3), found) and (saved / "000000002").is_dir()


def test_saving_a_step_again_replaces_a_damaged_one(saved):
    (saved / "000000003" / MANIFEST).unlink()
    save_checkpoint(saved, 3, state(3), {}, keep=2)
    assert same(state(3), warnings_of(saved)[0])


def test_saving_a_step_again_replaces_a_whole_one(saved):
    save_checkpoint(saved, 3, state(7), {"epoch": 7}, keep=2)
    found, info, said = warnings_of(saved)
    assert same(state(7), found) and info["epoch"] == 7 and not said
    assert sorted(path.name for path in saved.iterdir()) == ["000000002", "000000003"]


def test_a_crash_while_a_step_is_saved_again_leaves_the_old_or_the_new_one(tmp_path, monkeypatch):
    """The only checkpoint is replaced, and the process dies before each call that changes a name or deletes, in turn."""

    class Killed(BaseException):
        """No cleaning up after it, as after SIGKILL."""

    remaining = [0]

    def dying(call):
        def wrapped(*arguments, **options):
            remaining[0] -= 1
            if remaining[0] < 0:
                raise Killed
            return call(*arguments, **options)

        return wrapped

    outcomes = []
    for calls in range(100):
        folder = tmp_path / f"{calls}"
        save_checkpoint(folder, 3, state(3), {}, keep=1)
        remaining[0] = calls
        with monkeypatch.context() as patch:
            for owner, name in ((training, "write_manifest"), (os, "replace"), (training.Path, "rename"), (shutil, "rmtree")):
                patch.setattr(owner, name, dying(getattr(owner, name)))
            try:
                save_checkpoint(folder, 3, state(7), {}, keep=1)
                died = False
            except Killed:
                died = True
        remove_leftovers(folder)
        found = warnings_of(folder)[0]
        assert same(state(3), found) or same(state(7), found)
        outcomes.append(same(state(7), found))
        if not died:
            break
        save_checkpoint(folder, 3, state(8), {}, keep=1)  # and the next save finds its way
        assert same(state(8), warnings_of(folder)[0]) and [path.name for path in folder.iterdir() if path.name.isdigit()] == ["000000003"]
    assert calls >= 5 and outcomes == sorted(outcomes) and not outcomes[0] and outcomes.count(True) >= 4


def test_leftovers_of_interrupted_saves_are_removed(saved):
    (saved / "000000004.orbax-checkpoint-tmp").mkdir()
    (saved / "000000005.part").mkdir()
    (saved / "000000001.deleted").mkdir()
    (saved / "000000001.damaged").mkdir()
    remove_leftovers(saved)
    assert sorted(path.name for path in saved.iterdir()) == ["000000001.damaged", "000000002", "000000003"]


def test_second_writer_is_refused(tmp_path):
    with lock(tmp_path):
        with pytest.raises(LockError, match="is being written by process"), lock(tmp_path):
            pass
    with lock(tmp_path):
        pass
    (tmp_path / "LOCK").write_text('{"host": "elsewhere", "pid": 7}')
    with pytest.raises(LockError, match="process 7 on host elsewhere"), lock(tmp_path):
        pass
