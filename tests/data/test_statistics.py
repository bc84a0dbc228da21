"""E0s, average neighbour count, scale and shift: by hand, and against mace-torch itself."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from macejax.data.graph import build_graphs
from macejax.data.read import to_atoms
from macejax.data.statistics import (
    average_neighbors,
    e0_list,
    e0s_average,
    e0s_from_isolated,
    e0s_from_table,
    energy_scale,
    energy_shift,
    split_isolated,
)
from macejax.data.structure import DataError, Structure
from tests import structures as zoo

TABLE = {1: -13.6, 6: -1029.5, 8: -2041.25}
ELEMENTS = (1, 6, 8)
PARITY = 1e-12
PARITY_OF_STD = 1e-7  # mace-torch divides by n - 1 + 1e-6


def isolated(number: int, energy: float, source: str = "a.xyz:frame 0") -> Structure:
    return Structure(np.array([number]), np.zeros((1, 3)), energy=energy, config_type="IsolatedAtom", source=source)


def training_set() -> list[Structure]:
    return [zoo.labelled(name, seed) for name in ("water", "ethanol", "benzene") for seed in range(3)]


def test_isolated_atoms_give_e0s_and_leave_the_training_set() -> None:
    frames = [isolated(1, -13.6), *training_set(), isolated(8, -2041.25)]
    atoms, rest = split_isolated(frames)
    assert len(atoms) == 2 and len(rest) == 9
    assert e0s_from_isolated(frames) == {1: -13.6, 8: -2041.25}


def test_isolated_atoms_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match=r"b\.xyz:frame 2: the isolated H atom has no energy"):
        e0s_from_isolated([isolated(1, math.nan, "b.xyz:frame 2")])
    with pytest.raises(DataError, match="isolated H atom has the energy -13.5, but another frame says -13.6"):
        e0s_from_isolated([isolated(1, -13.6), isolated(1, -13.5)])
    assert e0s_from_isolated([isolated(1, -13.6), isolated(1, -13.6)]) == {1: -13.6}
    with pytest.raises(DataError, match="there are 3 atoms"):
        split_isolated([zoo.labelled("water")._replace(config_type="IsolatedAtom")])


def test_table() -> None:
    assert e0s_from_table({"H": -13.6, 6: -1029.5, "8": -2041}) == {1: -13.6, 6: -1029.5, 8: -2041.0}
    for bad, reason in (({"Q": 1.0}, "'Q' is no element"), ({"H": 1.0, 1: 1.0}, "H is given twice"), ({"H": math.nan}, "is nan")):
        with pytest.raises(DataError, match=reason):
            e0s_from_table(bad)
    assert e0_list(TABLE, ELEMENTS) == [-13.6, -1029.5, -2041.25]
    with pytest.raises(DataError, match="there is none for C, Si"):
        e0_list({1: 0.0}, (1, 6, 14))


def test_least_squares_finds_what_made_the_energies() -> None:
    structures = [s._replace(energy=sum(TABLE[int(number)] for number in s.numbers)) for s in training_set()]
    structures.append(zoo.structure("water"))  # without an energy: counts for nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = e0s_average(structures, ELEMENTS)
    assert found == pytest.approx(TABLE, rel=1e-10)


def test_least_squares_warns_where_compositions_do_not_determine_it() -> None:
    structures = [zoo.labelled("ethanol", seed)._replace(energy=-4209.0) for seed in range(4)]
    with pytest.warns(UserWarning, match="the 4 compositions determine only 1 of the 3 energies of H, C, O"):
        found = e0s_average(structures, ELEMENTS)
    assert sum(found[int(number)] for number in structures[0].numbers) == pytest.approx(-4209.0)
    with pytest.raises(DataError, match="no structure has an energy"):
        e0s_average([zoo.structure("water")], ELEMENTS)


def test_average_neighbors_leaves_lonely_atoms_out() -> None:
    names = ("slab", "ethanol", "hydrogen_atom", "atom_in_vacuum", "copper1")
    counts = np.concatenate([np.bincount(neighbor_list("i", zoo.atoms(name), 3.0), minlength=len(zoo.atoms(name))) for name in names])
    graphs = build_graphs([zoo.structure(name) for name in names], zoo.ELEMENTS, 3.0)
    assert average_neighbors(graphs) == pytest.approx(counts[counts > 0].mean(), rel=1e-15)
    assert average_neighbors(build_graphs([zoo.structure("hydrogen_atom")], zoo.ELEMENTS, 3.0)) == 1.0


def test_scale_and_shift_by_hand() -> None:
    two = [
        Structure(np.array([1, 1]), np.zeros((2, 3)), energy=2 * -13.6 + 1.0, forces=np.full((2, 3), 2.0)),
        Structure(np.array([1]), np.zeros((1, 3)), energy=-13.6 + 2.5, forces=np.array([[np.nan, 0.0, 0.0]])),
        Structure(np.array([1]), np.zeros((1, 3))),
    ]
    table = {1: -13.6}
    assert (energy_scale(two, (1,), table, "no_scaling"), energy_shift(two, (1,), table, "no_scaling")) == (1.0, 0.0)
    assert energy_scale(two, (1,), table, "std_scaling") == pytest.approx(np.std([0.5, 2.5], ddof=1))
    assert energy_scale(two, (1,), table, "rms_forces_scaling") == pytest.approx(math.sqrt(6 * 4 / 8))
    assert energy_shift(two, (1,), table, "std_scaling") == energy_shift(two, (1,), table, "rms_forces_scaling") == pytest.approx(1.5)


def test_scale_of_zero_becomes_one_with_a_warning() -> None:
    still = [Structure(np.array([1]), np.zeros((1, 3)), energy=-13.6, forces=np.zeros((1, 3)))]
    for kind in ("std_scaling", "rms_forces_scaling"):
        with pytest.warns(UserWarning, match=f"{kind}: the labels give a scale of zero"):
            assert energy_scale(still, (1,), {1: -13.6}, kind) == 1.0
    with pytest.raises(ValueError, match="not 'other'"):
        energy_scale(still, (1,), TABLE, "other")


def test_what_no_label_determines_is_refused_with_the_way_out() -> None:
    bare = [zoo.structure("water")]
    with pytest.raises(DataError, match=r"scale cannot be computed: no structure has an energy.*rms_forces_scaling.*model\.scale"):
        energy_scale(bare, ELEMENTS, TABLE, "std_scaling")
    with pytest.raises(DataError, match=r"shift cannot be computed: no structure has an energy.*model\.shift.*model\.scaling"):
        energy_shift(bare, ELEMENTS, TABLE, "rms_forces_scaling")


@pytest.mark.torch
def test_equals_mace_torch() -> None:
    pytest.importorskip("mace", reason="mace-torch is not installed")
    import torch
    from mace import data, modules, tools
    from mace.data.utils import KeySpecification, compute_average_E0s, config_from_atoms
    from mace.tools import torch_geometric

    structures = training_set()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        table = tools.AtomicNumberTable(list(ELEMENTS))
        keys = KeySpecification({"energy": "REF_energy"}, {"forces": "REF_forces"})
        configurations = [config_from_atoms(to_atoms(structure), keys) for structure in structures]
        loader = torch_geometric.dataloader.DataLoader(
            [data.AtomicData.from_config(configuration, z_table=table, cutoff=3.0) for configuration in configurations], batch_size=4
        )
        e0s = e0s_average(structures, ELEMENTS)
        theirs = compute_average_E0s(configurations, table)
        assert e0s == pytest.approx(theirs, rel=PARITY)
        neighbors = modules.compute_avg_num_neighbors(loader)
        assert average_neighbors(build_graphs(structures, ELEMENTS, 3.0)) == pytest.approx(neighbors, rel=PARITY)
        table_of_e0s = np.array([e0_list(e0s, ELEMENTS)])
        for kind, function in (
            ("std_scaling", modules.compute_mean_std_atomic_inter_energy),
            ("rms_forces_scaling", modules.compute_mean_rms_energy_forces),
        ):
            shift, scale = function(loader, table_of_e0s)
            ours = energy_scale(structures, ELEMENTS, e0s, kind), energy_shift(structures, ELEMENTS, e0s, kind)
            assert ours == pytest.approx((float(np.ravel(scale)[0]), float(np.ravel(shift)[0])), rel=PARITY_OF_STD, abs=PARITY), kind
    finally:
        torch.set_default_dtype(before)
