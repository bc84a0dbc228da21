"""Heads and elements: models with more or fewer of them give the same numbers."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import macejax
from macejax.config import EmbeddingConfig, ModelConfig
from macejax.data.batch import batch, capacity_for
from macejax.data.graph import model_graphs
from macejax.data.structure import DataError, Structure
from tests.marks import rest_is_thorough
from tests.structures import structure

SMALL = {
    "elements": (1, 6, 8, 14),
    "hidden_irreps": "4x0e + 4x1o",
    "l_max": 1,
    "correlation": 2,
    "num_bessel": 4,
    "radial_mlp": (8,),
    "readout_irreps": "3x0e",
    "cutoff": 3.0,
    "avg_num_neighbors": 5.0,
}
TWO = {
    "heads": ("PBE", "r2SCAN"),
    "e0s": ((-1.0, -2.0, -3.0, -4.0), (-1.5, -2.5, -3.5, -4.5)),
    "scale": (0.7, 1.3),
    "shift": (-0.1, 0.2),
}
KINDS = {
    "NonLinear": {"readout": "NonLinear"},
    "NonLinearBias, agnostic, NonLinear blocks": {
        "readout": "NonLinearBias",
        "agnostic_product": True,
        "interaction_first": "RealAgnosticResidualNonLinear",
        "interaction": "RealAgnosticResidualNonLinear",
    },
    "inputs": {
        "joint_embedding": (EmbeddingConfig(name="total_charge", type="categorical", emb_dim=3, num_classes=5, offset=2),),
        "embedding_readout": True,
    },
}


def model(**options) -> macejax.Model:
    """Random parameters, biases among them."""
    config = ModelConfig(**{**SMALL, **TWO, **options})
    found = macejax.init_model(config, jax.random.key(0), np.float64)
    leaves, tree = jax.tree.flatten(found.params)
    rng = np.random.default_rng(0)
    return found._replace(params=jax.tree.unflatten(tree, [np.asarray(x) + rng.normal(scale=0.3, size=x.shape) for x in leaves]))


def energies(found: macejax.Model, *structures: Structure) -> np.ndarray:
    """Total energies, E0s and all (eV)."""
    graphs = model_graphs(structures, found.config)
    graph = batch(graphs, capacity_for(graphs), np.float64)
    predicted = jax.jit(lambda p, g: macejax.predict(macejax.build(found.config).apply, p, g))(found.params, graph)
    return np.asarray(predicted.energy)[: len(graphs)] + [g.e0 for g in graphs]


@pytest.mark.parametrize("kind", rest_is_thorough(KINDS, ["inputs"]))
def test_a_selected_head_has_the_energies_of_the_head(kind):
    options = KINDS[kind]
    both = model(**options)
    ethanol = structure("ethanol")._replace(total_charge=-1.0)
    expected = energies(both, ethanol._replace(head="PBE"), ethanol._replace(head="r2SCAN"))
    assert abs(expected[0] - expected[1]) > 0.1
    for place, head in enumerate(both.config.heads):
        alone = macejax.select_head(both, head)
        assert alone.config.heads == (head,) and alone.config.e0s == TWO["e0s"][place]
        np.testing.assert_allclose(energies(alone, ethanol), expected[place], rtol=1e-12)


@pytest.mark.thorough
def test_heads_are_added_and_removed():
    both = model(**KINDS["NonLinearBias, agnostic, NonLinear blocks"])
    ethanol = structure("ethanol")
    before = energies(both, *(ethanol._replace(head=head) for head in both.config.heads))
    three = macejax.add_head(both, "mine", like="PBE", e0s={"O": -7.0}, shift=0.5)
    assert three.config.heads == ("PBE", "r2SCAN", "mine") and three.config.e0_table[2] == (-1.0, -2.0, -7.0, -4.0)
    after = energies(three, *(ethanol._replace(head=head) for head in three.config.heads))
    np.testing.assert_allclose(after[:2], before, rtol=1e-12)
    atoms = len(ethanol.numbers)
    np.testing.assert_allclose(after[2], before[0] + atoms * 0.6 - 4.0, rtol=1e-12)  # shift 0.5 after -0.1, one O at -7 after -3
    again = macejax.remove_head(three, "mine")
    assert again.config == both.config
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), again.params, both.params)


@pytest.mark.parametrize("kind", rest_is_thorough(KINDS, ["NonLinear"]))
def test_a_model_cut_to_its_elements_gives_the_same_numbers(kind):
    whole = macejax.select_head(model(**KINDS[kind]), "PBE")
    cut = macejax.select_elements(whole, ["O", 6, "H"])
    assert cut.config.elements == (1, 6, 8) and len(cut.config.e0s) == 3
    size = sum(np.size(x) for x in jax.tree.leaves(cut.params))
    assert size < sum(np.size(x) for x in jax.tree.leaves(whole.params))
    ethanol = structure("ethanol")
    np.testing.assert_allclose(energies(cut, ethanol), energies(whole, ethanol), rtol=1e-12)
    with pytest.raises(DataError, match="Si"):
        model_graphs([Structure(np.array([14]), np.zeros((1, 3)))], cut.config)


def test_what_cannot_be_is_said():
    both = model()
    with pytest.raises(ValueError, match="PBE, r2SCAN: say which"):
        macejax.select_head(both, None)
    with pytest.raises(ValueError, match="no head 'HF'; it has PBE, r2SCAN"):
        macejax.select_head(both, "HF")
    with pytest.raises(ValueError, match="has a head 'PBE' already"):
        macejax.add_head(both, "PBE")
    for name in ("", " ", "a,b"):
        with pytest.raises(ValueError, match="a head cannot be called"):
            macejax.add_head(both, name)
        with pytest.raises(ValueError, match="a head cannot be called"):
            model(heads=("PBE", name))
    for e0s, sentence in (
        ({"H": np.nan}, "the energy of H is nan"),
        ((-1.0, np.inf, -3.0, -4.0), "the energy of C is inf"),
        ({"H": -1.0, "1": -2.0}, "H is given twice"),
        ({"Xx": -1.0}, "'Xx' is no element"),
    ):
        with pytest.raises(DataError, match=sentence):
            macejax.add_head(both, "mine", e0s=e0s)
    with pytest.raises(ValueError, match="only head"):
        macejax.remove_head(macejax.select_head(both, "PBE"), "PBE")
    with pytest.raises(ValueError, match="does not know U"):
        macejax.select_elements(both, ["U"])
    with pytest.raises(DataError, match="head 'HF' is none of the model's"):
        model_graphs([structure("ethanol")._replace(head="HF", source="a.xyz:frame 3")], both.config)


def test_inputs_out_of_range_or_missing_are_refused():
    config = model(**KINDS["inputs"]).config
    ethanol = structure("ethanol")._replace(head="PBE", source="a.xyz:frame 3")
    with pytest.raises(DataError, match=r"a.xyz:frame 3: total_charge is 3.0, .* from -2 to 2"):
        model_graphs([ethanol._replace(total_charge=3.0)], config)
    with pytest.raises(DataError, match="whole numbers"):
        model_graphs([ethanol._replace(total_charge=0.5)], config)
    other = config.model_copy(update={"joint_embedding": (EmbeddingConfig(name="elec_temp", type="continuous", emb_dim=2),)})
    with pytest.raises(DataError, match="needs elec_temp, which the structure lacks"):
        model_graphs([ethanol], other)
    model_graphs([ethanol._replace(inputs={"elec_temp": 300.0})], other)


@pytest.mark.thorough
def test_the_calculator_takes_a_head_charge_and_spin():
    from tests.structures import atoms

    found = model(**KINDS["inputs"])
    with pytest.raises(ValueError, match="say which"):
        macejax.Calculator(found)
    calculator = macejax.Calculator(found, head="r2SCAN")
    ethanol = atoms("ethanol")
    ethanol.calc = calculator
    labelled = structure("ethanol")._replace(head="r2SCAN")
    for charge in (0, 1, -2):
        ethanol.info["charge"] = charge
        expected = energies(found, labelled._replace(total_charge=float(charge)))[0]
        np.testing.assert_allclose(ethanol.get_potential_energy(), expected, rtol=1e-11)
    assert calculator.num_compilations == 1
    ethanol.info["charge"] = 5
    with pytest.raises(DataError, match="total_charge is 5"):
        ethanol.get_potential_energy()
    del ethanol.info["charge"]
    ethanol.info["total_charge"] = 2  # as a training file has it
    expected = energies(found, labelled._replace(total_charge=2.0))[0]
    np.testing.assert_allclose(ethanol.get_potential_energy(), expected, rtol=1e-11)
    ethanol.info["charge"] = 1
    with pytest.raises(DataError, match="contradict each other"):
        ethanol.get_potential_energy()
