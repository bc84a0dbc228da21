"""Edges in a file: the same graphs, made once, and never trusted unseen."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from macejax.data import edge_file, graph
from macejax.data.batch import batch, capacity_for
from macejax.data.graph import build_graphs
from macejax.data.structure import DataError, Structure
from tests.conftest import REPOSITORY
from tests.structures import ZOO, structure

CUTOFF = 3.0


def data_set() -> list[Structure]:
    """Every kind of structure, among them one without edges, first and last."""
    alone = Structure(np.array([1]), np.zeros((1, 3)), source="alone")
    return [alone, *(structure(name) for name in ZOO), alone]


def elements() -> list[int]:
    return sorted({int(z) for s in data_set() for z in s.numbers})


def graphs(folder=None, cutoff: float = CUTOFF, structures=None):
    return build_graphs(data_set() if structures is None else structures, elements(), cutoff, edge_folder=folder)


@pytest.fixture
def no_search(monkeypatch):
    """Within, looking for neighbours is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("neighbours were looked for")

    return lambda: monkeypatch.setattr(graph, "symmetric_neighbors", refuse)


def assert_same(found, expected) -> None:
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        for name, value in other._asdict().items():
            np.testing.assert_equal(getattr(own, name), value, err_msg=name)
            assert np.asarray(getattr(own, name)).dtype == np.asarray(value).dtype, name


def test_graphs_are_the_same_and_their_edges_a_file(tmp_path, no_search):
    expected = graphs()
    first = graphs(tmp_path / "new" / "edges")
    no_search()
    again = graphs(tmp_path / "new" / "edges")
    for found in (first, again):
        assert_same(found, expected)
        some = next(own for own in found if len(own.senders))
        base = some.shift
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap) and not some.shift.flags.writeable
    edge_file.announce(own.receivers for own in [*again, *expected])  # of a file or not, none among them
    capacity = capacity_for(expected)
    made, other = batch(again, capacity), batch(expected, capacity)
    jax.tree.map(np.testing.assert_array_equal, made, other)


def test_others_have_files_of_their_own(tmp_path):
    """Another cutoff, moved atoms, another order, another cell: each is made anew, and all stay."""
    structures = data_set()
    moved = [s._replace(positions=s.positions + np.linspace(0, 0.1, len(s.numbers))[:, None]) for s in structures]
    open_ = [s._replace(pbc=np.zeros(3, bool)) for s in structures]
    for cutoff, found in ((CUTOFF, structures), (2.5, structures), (CUTOFF, moved), (CUTOFF, structures[::-1]), (CUTOFF, open_)):
        assert_same(graphs(tmp_path, cutoff, found), graphs(None, cutoff, found))
    assert len(list(tmp_path.iterdir())) == 5
    labelled = [s._replace(energy=1.0, weight=2.0) for s in structures]
    assert_same(graphs(tmp_path, CUTOFF, labelled), graphs(None, CUTOFF, labelled))
    assert len(list(tmp_path.iterdir())) == 5


def test_a_set_without_an_edge(tmp_path):
    alone = [s for s in data_set() if s.source == "alone"]
    for _ in range(2):
        assert_same(graphs(tmp_path, structures=alone), graphs(structures=alone))


@pytest.mark.parametrize("damage", ["a bit", "cut short", "counts", "other counts", "no counts", "counts are gone", "no checksum"])
def test_a_damaged_file_is_told_and_made_anew(tmp_path, damage):
    graphs(tmp_path)
    (folder,) = tmp_path.iterdir()
    data = bytearray((folder / "edges").read_bytes())
    if damage == "a bit":
        data[len(data) // 2] ^= 1
        (folder / "edges").write_bytes(data)
    elif damage == "cut short":
        (folder / "edges").write_bytes(data[:-28])
    elif damage == "counts":
        np.save(folder / "counts.npy", np.array([len(data) // 28]))
    elif damage == "other counts":
        counts = np.load(folder / "counts.npy")
        counts[1:3] += [-1, 1]
        np.save(folder / "counts.npy", counts)
    elif damage == "no counts":
        (folder / "counts.npy").write_bytes(b"")
    elif damage == "counts are gone":
        (folder / "counts.npy").unlink()
    else:
        (folder / "checksum").unlink()
    with pytest.warns(UserWarning, match=rf"kept in {folder} are damaged \(.+\); they are made anew"):
        assert_same(graphs(tmp_path), graphs())
    assert_same(graphs(tmp_path), graphs())


def test_an_error_leaves_nothing_behind(tmp_path):
    bad = [*data_set(), Structure(np.array([1, 1]), np.array([[0, 0, 0], [np.nan, 0, 0]]), source="bad.xyz:frame 7")]
    with pytest.raises(DataError, match=r"bad\.xyz:frame 7"):
        graphs(tmp_path, structures=bad)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_in_time(tmp_path):
    graphs(tmp_path)
    (folder,) = tmp_path.iterdir()
    for name, age in (("old", 2 * edge_file.ABANDONED), ("new", 0.0)):
        part = tmp_path / f"{folder.name}.{name}{edge_file.PART}"
        part.mkdir()
        for path in (part / "edges", part):
            path.touch()
            os.utime(path, (time.time() - age,) * 2)
    graphs(tmp_path)
    assert sorted(path.name.split(".")[1] for path in tmp_path.iterdir() if path != folder) == ["new"]


def test_another_process_may_be_first(tmp_path, monkeypatch):
    """It gives its folder the name while this one still writes."""
    write = edge_file._write

    def slow(folder, edges):
        write(folder, edges)
        monkeypatch.setattr(edge_file, "_write", write)
        graphs(tmp_path)

    monkeypatch.setattr(edge_file, "_write", slow)
    assert_same(graphs(tmp_path), graphs())
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.thorough
def test_processes_share_a_folder(tmp_path):
    """They come to a damaged file at the same time, make it anew, and all have the right edges."""
    graphs(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "checksum").write_text("0")
    command = [sys.executable, "-c", f"from {__name__} import look; look()", str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=REPOSITORY, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # together
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.wait(60) == 0, process.stderr.read()
        process.communicate()
    assert len(list(tmp_path.iterdir())) == 1


def look() -> None:
    """What each of them does."""
    expected = graphs()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(3):
        assert_same(graphs(sys.argv[1]), expected)


def test_others_may_read_it(tmp_path):
    """Who may read the folder may read the files in it, and needs no right to write."""
    before = os.umask(0o022)
    try:
        graphs(tmp_path / "edges")
    finally:
        os.umask(before)
    (folder,) = (tmp_path / "edges").iterdir()
    assert folder.stat().st_mode & 0o055 == 0o055
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=rf"cannot be kept in {tmp_path / 'file'} \(data.edge_folder\)"):
        graphs(tmp_path / "file")
