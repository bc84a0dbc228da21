"""From files to what a run works on; and what is refused."""

from __future__ import annotations

import math
import warnings
from collections import Counter

import numpy as np
import pytest

from macejax.config import ConfigError
from macejax.data.structure import DataError, Structure
from macejax.data.write import write
from macejax.train.labels import check_validation, require_labels
from macejax.train.loop import train
from macejax.train.prepare import prepare
from tests.reliability.tiny import configuration, waters


def test_split_is_seeded_disjoint_and_complete(tmp_path):
    def sources(seed: int) -> dict[str, list[str]]:
        prepared = prepare(configuration(tmp_path, run__seed=seed), pytest.fail)
        return {name: [s.source for s in structures] for name, structures in prepared.structures.items()}

    first, again, other = sources(1), sources(1), sources(2)
    assert first == again and first["valid"] != other["valid"]
    assert len(first["valid"]) == 4 and len({*first["train"], *first["valid"]}) == 22


def test_the_split_of_one_head_stays_as_it_was(tmp_path):
    """So that a run that was begun by an earlier macejax can be repeated and resumed."""
    prepared = prepare(configuration(tmp_path, run__seed=1), pytest.fail)
    assert [int(s.source.rsplit(" ", 1)[1]) for s in prepared.structures["valid"]] == [2, 19, 20, 21]


def test_every_head_gives_its_part_to_validation_and_keeps_one_structure(tmp_path):
    structures = [s._replace(head="dft" if n < 3 else "hf" if n == 3 else "xtb") for n, s in enumerate(waters(22))]
    said: list[str] = []
    for seed in range(20):
        options = {"run__seed": seed, "data__valid_fraction": 0.3, "model__scaling": "no_scaling"}
        prepared = prepare(configuration(tmp_path, structures=structures, **options), said.append)
        sizes = {name: Counter(s.head for s in found) for name, found in prepared.structures.items()}
        assert sizes == {"train": {"dft": 2, "hf": 1, "xtb": 13}, "valid": {"dft": 1, "xtb": 5}}
    said.clear()
    check_validation(prepared.graphs["valid"], [["energy"]], prepared.model.heads, said.append)
    assert said == ["no validation structure is of the head 'hf': which epoch is the best is decided without it."]


def test_forces_alone_need_no_energies(tmp_path):
    """But a shift does, which only ScaleShiftMACE has, and which may be given."""
    bare = [s._replace(energy=math.nan) for s in waters(22)]
    forces = np.concatenate([s.forces for s in prepare(configuration(tmp_path, structures=bare), pytest.fail).structures["train"]])
    assert prepare(configuration(tmp_path), pytest.fail).model.scale == pytest.approx(np.sqrt(np.mean(forces**2)))
    given = prepare(configuration(tmp_path, model__model="ScaleShiftMACE", model__shift=0.5), pytest.fail).model
    assert given.shift == 0.5
    for options in ({"model__model": "ScaleShiftMACE"}, {"model__scaling": "std_scaling"}):
        with pytest.raises(DataError, match=r"cannot be computed: no structure has an energy.*model\.sc"):
            prepare(configuration(tmp_path, **options), pytest.fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a scale that nobody needs
        prepare(configuration(tmp_path, structures=[s._replace(forces=None) for s in waters(22)], model__scale=2.0), pytest.fail)


def test_what_is_wrong_with_one_head_is_said_of_it(tmp_path):
    lame = [s._replace(energy=math.nan) if s.head == "dft" else s for s in two_heads()]
    with pytest.raises(DataError, match=r"head 'dft': E0s cannot be fitted: no structure has an energy"):
        prepare(configuration(tmp_path, structures=lame, data__e0s="average"), lambda _: None)
    with pytest.warns(UserWarning, match=r"^head 'xtb': E0s by least squares"):
        prepare(
            configuration(tmp_path, structures=two_heads(), data__e0s={"xtb": "average", "dft": {"H": -1.0, "O": -8.0}}), lambda _: None
        )


def test_statistics_come_from_the_training_set(tmp_path):
    prepared = prepare(configuration(tmp_path), pytest.fail)
    forces = np.concatenate([s.forces for s in prepared.structures["train"]])
    assert prepared.model.scale == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-12) and prepared.model.shift == 0
    assert prepared.model.elements == (1, 8) and prepared.model.e0s == (-1.0, -8.0) and prepared.model.avg_num_neighbors == 2.0
    assert prepared.model.interaction_first == "RealAgnostic"
    shifted = prepare(configuration(tmp_path, model__model="ScaleShiftMACE"), pytest.fail).model
    energies = [(s.energy + 10) / 3 for s in prepared.structures["train"]]
    assert shifted.shift == pytest.approx(np.mean(energies), rel=1e-9) and shifted.interaction_first == "RealAgnosticResidual"
    given = prepare(configuration(tmp_path, model__scale=2.0, model__avg_num_neighbors=7.5), pytest.fail).model
    assert given.scale == 2.0 and given.avg_num_neighbors == 7.5


def test_isolated_atoms_give_e0s_and_leave(tmp_path):
    atoms = [Structure(np.array([z]), np.zeros((1, 3)), energy=-float(z), config_type="IsolatedAtom") for z in (1, 8)]
    prepared = prepare(configuration(tmp_path, structures=[*waters(22), *atoms], data__e0s="isolated"), pytest.fail)
    assert prepared.model.e0s == (-1.0, -8.0) and sum(map(len, prepared.structures.values())) == 22
    kept = prepare(configuration(tmp_path, data__e0s="isolated", data__keep_isolated_atoms=True), pytest.fail)
    assert sum(map(len, kept.structures.values())) == 24


def test_weights_of_config_types(tmp_path):
    prepared = prepare(configuration(tmp_path, data__config_type_weights={"odd": 0.5}), pytest.fail)
    assert {(s.config_type, s.weight) for s in prepared.structures["train"]} == {("odd", 0.5), ("even", 1.0)}
    assert {s.weight for s in prepared.structures["valid"]} == {1.0}


def test_what_the_model_does_not_know_of_is_told(tmp_path):
    charged = [s._replace(total_charge=float(n % 2), total_spin=1.0 + n % 3) for n, s in enumerate(waters(22))]
    said: list[str] = []
    prepare(configuration(tmp_path, structures=charged), said.append)
    assert len(said) == 2 and "total charge differs" in said[0] and "spin multiplicity differs" in said[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"data__e0s": "isolated"}, "no frame has config_type=IsolatedAtom.*set data.e0s to average"),
        ({"data__e0s": {"H": -1.0}}, "none for O"),
        ({"data__config_type_weights": {"strange": 2.0}}, "names 'strange', which no training structure has .*even, odd"),
        ({"model__elements": ["H", "C"]}, "model.elements lacks O"),
        ({"data__train": "absent.xyz"}, "absent.xyz: there is no such file"),
        ({"data__keys__energy": "dft_energy"}, "'dft_energy' for energy is in no frame"),
    ],
    ids=str,
)
def test_refused_with_a_sentence(tmp_path, options, sentence):
    with pytest.raises(DataError, match=sentence):
        prepare(configuration(tmp_path, **options), pytest.fail)


def two_heads() -> list[Structure]:
    """Every other water by another method, whose oxygen has 2 eV less and whose springs are harder."""
    soft, hard = waters(22)[::2], waters(22)[1::2]
    hard = [s._replace(head="dft", energy=2 * s.energy + 8.0, forces=2 * s.forces) for s in hard]
    return [*(s._replace(head="xtb") for s in soft), *hard]


def test_heads_have_their_own_energies_scale_and_shift(tmp_path):
    e0s = {"xtb": {"H": -1.0, "O": -8.0}, "dft": {"H": -1.0, "O": -10.0}}
    said: list[str] = []
    options = {"data__e0s": e0s, "model__model": "ScaleShiftMACE", "model__heads": ["xtb", "dft"]}
    prepared = prepare(configuration(tmp_path, structures=two_heads(), **options), said.append)
    model = prepared.model
    assert "2 heads (xtb, dft)" in said[0] and model.heads == ("xtb", "dft") and model.e0s == ((-1.0, -8.0), (-1.0, -10.0))
    for place, head in enumerate(model.heads):
        of_head = [s for s in prepared.structures["train"] if s.head == head]
        forces = np.concatenate([s.forces for s in of_head])
        assert model.scale[place] == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-12)
        assert model.shift[place] == pytest.approx(np.mean([(s.energy - sum(e0s[head].values()) + 1.0) / 3 for s in of_head]), rel=1e-9)
    assert {graph.head for graph in prepared.graphs["train"]} == {0, 1}
    merged = prepare(configuration(tmp_path, model__heads=["all"], data__keys__head=None), pytest.fail)
    assert merged.model.heads == ("all",) and {graph.head for graph in merged.graphs["train"]} == {0}


def test_heads_that_are_not_there_and_too_few_structures_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no training structure has the head 'hf'; there are xtb, dft"):
        prepare(configuration(tmp_path, structures=two_heads(), model__heads=["xtb", "hf"]), pytest.fail)
    with pytest.raises(DataError, match=r"the model has the head 'hf', but there are structures of dft, xtb: set data.keys.head to null"):
        prepare(configuration(tmp_path, model__heads=["hf"]), pytest.fail)
    with pytest.raises(ConfigError, match="says nothing of the head 'dft'"):
        prepare(configuration(tmp_path, data__e0s={"xtb": "average"}), lambda _: None)
    with pytest.raises(ConfigError, match=r"data.e0s names 'hf', which is no head of the run \(xtb, dft\)"):
        prepare(configuration(tmp_path, data__e0s=dict.fromkeys(("xtb", "hf", "dft"), "average")), lambda _: None)
    with pytest.raises(DataError, match="head 'dft' is none of the model's"):
        write(tmp_path / "test.xyz", two_heads()[-2:])
        options = {"structures": waters(22), "data__test": str(tmp_path / "test.xyz"), "model__heads": ["Default", "xtb"]}
        prepare(configuration(tmp_path, **options | {"structures": [*waters(8), *two_heads()[:8]]}), lambda _: None)
    with pytest.raises(DataError, match="1 structures are too few"):
        prepare(configuration(tmp_path, structures=waters(1)), pytest.fail)
    with pytest.raises(DataError, match=r"a head cannot be called 'b3lyp, d3'"):
        prepare(configuration(tmp_path, structures=[s._replace(head="b3lyp, d3") for s in two_heads()]), pytest.fail)


def test_a_term_of_the_loss_without_any_label_is_refused(tmp_path):
    bare = [s._replace(forces=None) for s in waters(22)]
    graphs = prepare(configuration(tmp_path, structures=bare, model__scaling="no_scaling"), pytest.fail).graphs["train"]
    require_labels(graphs, ["energy"])
    with pytest.raises(DataError, match="term for forces.*data.keys.forces.*loss.forces_weight"):
        require_labels(graphs, ["energy", "forces"])
    unweighted = [graph._replace(weights={**graph.weights, "energy": 0.0}) for graph in graphs]
    with pytest.raises(DataError, match="no training structure has energy, with a weight above 0"):
        require_labels(unweighted, ["energy"])


def test_a_validation_set_that_cannot_tell_epochs_apart_is_refused(tmp_path):
    """Its loss would be 0 after each, and the first epoch the best for ever."""
    bare = [s._replace(forces=None) for s in waters(6)]
    write(tmp_path / "valid.xyz", bare)
    config = configuration(tmp_path, data__valid=str(tmp_path / "valid.xyz"))
    graphs, said = prepare(config, pytest.fail).graphs["valid"], []
    check_validation(graphs, [["energy", "forces"], ["energy", "stress"]], ["Default"], said.append)
    assert ["has forces" in said[0], "has stress" in said[1]] == [True, True] and len(said) == 2
    for useless in (graphs, [graph._replace(weight=0.0) for graph in graphs]):
        with pytest.raises(DataError, match="no validation structure has forces or stress, with a weight above 0"):
            check_validation(
                useless, [["energy"], ["forces", "stress"]] if useless is graphs else [["forces", "stress"]], ["Default"], said.append
            )
    with pytest.raises(DataError, match="no validation structure has forces"):
        train(config.model_copy(update={"loss": config.loss.model_copy(update={"energy_weight": 0.0})}), quiet=True)


def test_a_rare_config_type_may_be_all_in_the_validation_set(tmp_path):
    one = [s._replace(config_type="rare" if n == 0 else "even") for n, s in enumerate(waters(22))]
    found = {
        "valid" if any(s.config_type == "rare" for s in prepared.structures["valid"]) else "train"
        for prepared in (
            prepare(configuration(tmp_path, structures=one, data__config_type_weights={"rare": 5.0}, run__seed=k), pytest.fail)
            for k in range(30)
        )
    }
    assert found == {"train", "valid"}


def test_isolated_atoms_make_no_head(tmp_path):
    atoms = [Structure(np.array([z]), np.zeros((1, 3)), energy=-float(z), config_type="IsolatedAtom") for z in (1, 8)]
    named = [s._replace(head="pbe") for s in waters(22)]
    prepared = prepare(configuration(tmp_path, structures=[*named, *atoms], data__e0s="isolated"), pytest.fail)
    assert prepared.model.heads == ("pbe",) and prepared.model.e0s == (-1.0, -8.0)


def test_an_element_that_only_the_test_set_has_is_refused(tmp_path):
    write(tmp_path / "test.xyz", [s._replace(numbers=np.array([7, 1, 1])) for s in waters(2)])
    with pytest.raises(DataError, match=r"test.xyz.*contains N; the model knows only H, O"):
        prepare(configuration(tmp_path, data__test=str(tmp_path / "test.xyz")), pytest.fail)


@pytest.mark.parametrize("change", [{"head": "dft"}, {"total_charge": 1.0}, {"weights": {"energy": 0.5}}, {"virials": np.eye(3)}], ids=str)
def test_everything_that_is_learnt_from_is_in_the_fingerprint(tmp_path, change):
    """Else a run would go on, silently, with other data."""
    options = {"model__joint_embedding": [{"name": "total_charge", "type": "continuous", "emb_dim": 2}], "model__heads": ["xtb", "dft"]}
    options["data__e0s"] = {"H": -1.0, "O": -8.0}
    before = prepare(configuration(tmp_path, structures=two_heads(), **options), lambda _: None)
    changed = [s._replace(**change) if n == 3 else s for n, s in enumerate(two_heads())]
    after = prepare(configuration(tmp_path, structures=changed, **options, model__scale=1.0), lambda _: None)
    again = prepare(configuration(tmp_path, structures=two_heads(), **options, model__scale=1.0), lambda _: None)
    assert after.fingerprint not in (before.fingerprint, again.fingerprint)


def test_structures_of_a_head_that_the_model_has_not_are_refused(tmp_path):
    with pytest.raises(DataError, match="has the head 'xtb', but there are structures of dft: set data.keys.head to null"):
        prepare(configuration(tmp_path, structures=two_heads(), model__heads=["xtb"]), lambda _: None)
