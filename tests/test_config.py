"""Configuration: YAML in and out, overrides, and the sentences of what is refused."""

from __future__ import annotations

import pytest
import yaml

from macejax.config import ConfigError, ModelSection, TrainConfig, dump_config, load_config, parse_overrides, template
from macejax.config.text import option_names

TRAIN = {"data.train": "a.xyz"}


def test_the_template_is_the_defaults_and_explains_every_option():
    text = template()
    values = yaml.safe_load(text)
    values["data"]["train"] = "a.xyz"
    assert TrainConfig.model_validate(values) == load_config(None, TRAIN)
    lines = text.splitlines()
    for name in option_names():
        place = next(number for number, line in enumerate(lines) if line.strip().startswith(name.rsplit(".", 1)[-1] + ":"))
        assert lines[place - 1].strip().startswith("# "), name


def test_what_is_written_reads_the_same(tmp_path):
    config = load_config(None, TRAIN | {"data.e0s": {1: -13.6, "O": -430.0}, "model.elements": ["O", 1], "optimizer.clip_norm": None})
    (tmp_path / "run.yaml").write_text(dump_config(config))
    again = load_config(tmp_path / "run.yaml")
    assert again == config and again.model.elements == (1, 8) and again.data.train == ("a.xyz",) and again.optimizer.clip_norm is None


def test_overrides_win_and_are_yaml(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {train: a.xyz, batch_size: 3}\noptimizer: {learning_rate: 1e-3}\n")
    overrides = parse_overrides(["data.batch_size=7", "model.radial_mlp=[8, 8]", "data.e0s={H: -13.6}", "run.ema_decay=null"])
    config = load_config(tmp_path / "run.yaml", overrides)
    assert (config.data.batch_size, config.model.radial_mlp, config.data.e0s) == (7, (8, 8), {"H": -13.6})
    assert config.optimizer.learning_rate == 1e-3 and config.run.ema_decay is None


def test_defaults_are_those_of_mace_run_train():
    config = load_config(None, TRAIN)
    model = config.model.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=9.0, scale=2.0, shift=3.0)
    assert (model.cutoff, model.num_bessel, model.cutoff_power, model.l_max, model.correlation) == (5.0, 8, 5, 3, 3)
    assert (model.hidden_irreps, model.num_interactions, model.radial_mlp, model.gate) == ("128x0e + 128x1o", 2, (64, 64, 64), "silu")
    # --model MACE is a ScaleShiftMACE with a first block of its own and no shift
    assert (model.model, model.interaction_first, model.scale, model.shift) == ("ScaleShiftMACE", "RealAgnostic", 2.0, 0.0)
    assert (config.loss.energy_weight, config.loss.forces_weight, config.optimizer.kind, config.optimizer.weight_decay) == (
        1,
        100,
        "amsgrad",
        5e-7,
    )
    assert (config.data.batch_size, config.data.valid_fraction, config.run.seed, config.run.ema_decay) == (10, 0.1, 123, None)


def test_channels_and_degree_name_the_irreps():
    def irreps(**options) -> str:
        return ModelSection(**options).resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=1.0, scale=1.0, shift=0.0).hidden_irreps

    assert (
        irreps(num_channels=16, max_L=2) == "16x0e + 16x1o + 16x2e"
        and irreps(max_L=0) == "128x0e"
        and irreps(hidden_irreps="4x0e") == "4x0e"
    )


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"data.trian": 1}, "data: unknown key 'trian'.*did you mean 'train'"),
        ({"batch_size": 3}, "unknown key 'batch_size': did you mean data.batch_size"),
        ({"modle.cutoff": 3}, "unknown key 'modle'.*did you mean 'model'"),
        ({"optimizer.learning_rate": -1}, "optimizer.learning_rate: .*greater than 0.*-1"),
        ({"optimizer.kind": "sgd"}, "optimizer.kind: .*'amsgrad'.*'sgd'"),
        ({"model.correlation": 7}, "correlation must be from 1 to 4, not 7"),
        ({"model.hidden_irreps": "4x0e", "model.max_L": 1}, "either hidden_irreps, or num_channels and max_L"),
        ({"model.edge_irreps": "8x0e + 8x1e"}, "have 1e, which features have in the other parity alone"),
        ({"model.elements": ["Xx"]}, "'Xx' is no element"),
        ({"data.e0s": {"Xx": 1.0}}, "'Xx' is no element"),
        ({"run.name": "../elsewhere"}, "cannot name a file"),
        ({"stage_two.enabled": True, "stage_two.start": 5, "run.epochs": 5}, "would never begin"),
        ({"data.train": None}, "no training file is named"),
        ({"data.train": []}, "data.train: no training file is named"),
        ({"data.valid": []}, "data.valid: no file is named"),
        ({"data.test": []}, "data.test: no file is named"),
        ({"run.seed": 2**63}, "run.seed: .*less than"),
        ({"data.config_type_weights": {"slab": -1.0}}, "weight of slab is negative"),
        ({"run.name": "y", "run.name.x": 1}, "name is not a section"),
        ({"optimizer.kind": "schedulefree", "optimizer.schedule.kind": "constant", "run.ema_decay": 0.9}, "an average of its own"),
        ({"optimizer.kind": "schedulefree"}, "schedulefree takes no plateau schedule"),
        ({"loss.stress_weight": 50}, "loss: stress_weight has no effect: the loss weighted has no term.*to stress or huber or universal"),
        ({"loss.kind": "dipole", "loss.energy_weight": 2}, "energy_weight has no effect: the loss dipole has no term for energy"),
        ({"loss.huber_delta": 0.1}, "loss: huber_delta has no effect on the loss weighted.*huber or universal"),
        ({"optimizer.schedule.gamma": 0.9}, "gamma has no effect on a plateau schedule.*set optimizer.schedule.kind to exponential"),
        ({"optimizer.schedule.kind": "cosine", "optimizer.schedule.patience": 3}, "patience has no effect on a cosine schedule"),
        ({"stage_two.start": 5}, "stage_two.start has no effect without a second stage.*set stage_two.enabled to true"),
        ({"stage_two.enabled": True, "stage_two.stress_weight": 3}, "stage_two.stress_weight has no effect: the loss weighted has no term"),
        ({"data.valid": "v.xyz", "data.valid_fraction": 0.2}, "valid_fraction has no effect beside data.valid"),
        ({"model.scale": 2.0, "model.scaling": "std_scaling"}, "model.scaling has no effect beside model.scale"),
    ],
    ids=str,
)
def test_refused_with_a_sentence(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, TRAIN | overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"loss.kind": "universal", "loss.stress_weight": 50, "loss.huber_delta": 0.1},
        {"loss.stress_weight": 0, "stage_two.enabled": True, "stage_two.start": 5, "stage_two.virials_weight": 0},
        {"optimizer.schedule.kind": "exponential", "optimizer.schedule.gamma": 0.9, "optimizer.schedule.warmup_epochs": 2},
        {"data.valid": "v.xyz", "data.valid_fraction": 0.1, "loss.kind": "dipole", "loss.huber_delta": 0.01, "stage_two.start": None},
        {"model.model": "ScaleShiftMACE", "model.scale": 2.0, "model.scaling": "no_scaling"},
        {"loss.kind": "ef", "loss.energy_weight": 3.0, "optimizer.schedule.factor": 0.5, "data.valid_fraction": 0.2},
    ],
    ids=str,
)
def test_options_that_act_or_stand_at_their_defaults_are_taken(tmp_path, overrides):
    """And what is written of such a configuration, all options, reads again."""
    config = load_config(None, TRAIN | overrides)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "run.yaml") == config


def test_a_repulsion_that_would_be_cut_off_is_refused():
    section = ModelSection(pair_repulsion=True, cutoff=3.0)
    derived = {"avg_num_neighbors": 1.0, "scale": 1.0, "shift": 0.0}
    assert section.resolve(elements=(1, 8), e0s=(0.0, 0.0), **derived).pair_repulsion
    with pytest.raises(ValueError, match=r"two atoms of Sr ends at 3\.90 Angstrom; at the cutoff of 3 "):
        section.resolve(elements=(8, 38, 83), e0s=(0.0,) * 3, **derived)


def test_files_that_are_no_configuration_are_refused(tmp_path):
    for content, sentence in (
        ("a: [", "cannot be read as YAML"),
        ("- 1", "holds no options"),
        ("run: {seed: 1, seed: 2}", "'seed' stands twice"),
    ):
        (tmp_path / "run.yaml").write_text(content)
        with pytest.raises(ConfigError, match=sentence):
            load_config(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_config(tmp_path / "absent.yaml")
    for assignment in ("model.cutoff", "=3", "model.cutoff=["):
        with pytest.raises(ConfigError):
            parse_overrides([assignment])


def test_yaml_runs_no_code(tmp_path):
    (tmp_path / "run.yaml").write_text(f"data: !!python/object/apply:os.mkdir ['{tmp_path}/made']")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "run.yaml")
    assert not (tmp_path / "made").exists()
