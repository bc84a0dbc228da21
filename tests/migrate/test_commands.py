"""`macejax migrate` on commands as people write them."""

from __future__ import annotations

import pytest
import yaml

from macejax.cli.main import main
from macejax.config import ConfigError, load_config
from macejax.config.migrate import Migration, migrate, read_source
from tests.migrate.commands import FINE_TUNING, MINIMAL, MP0, OFF23, README, REPOSITORY, loaded, migrated, note


def test_the_command_of_the_readme(tmp_path):
    (tmp_path / "job.sh").write_text(README)
    migration = migrate(read_source(tmp_path / "job.sh"))
    config = loaded(migration, tmp_path)
    assert (config.run.name, config.run.epochs, config.run.ema_decay) == ("MACE_model", 1500, 0.99)
    assert (config.data.train, config.data.test, config.data.valid_fraction) == (("train.xyz",), ("test.xyz",), 0.05)
    assert config.data.e0s == {"H": -13.663181292231226, "C": -1029.2809654211628, "N": -1484.1187695035828, "O": -2042.0330099956639}
    assert config.stage_two.enabled and config.stage_two.start == 1200
    defaults = load_config(None, {"data.train": "train.xyz"})
    model = defaults.model.model_copy(update={"hidden_irreps": "128x0e + 128x1o"})
    assert (config.model, config.loss, config.optimizer) == (model, defaults.loss, defaults.optimizer)
    assert not migration.refused and "optimizer.kind" in note(migration, "amsgrad") and "--resume" in note(migration, "restart_latest")


def test_mp0(tmp_path):
    migration = migrated(MP0)
    config = loaded(migration, tmp_path)
    model = config.model.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=2.0, scale=2.0, shift=3.0)
    assert (model.interaction_first, model.shift, model.cutoff, model.num_bessel) == ("RealAgnosticResidual", 3.0, 6.0, 10)
    assert model.hidden_irreps == "128x0e + 128x1o"
    loss = config.loss
    assert (loss.kind, loss.energy_weight, loss.forces_weight, loss.stress_weight) == ("universal", 1, 10, 100)
    assert (config.optimizer.clip_norm, config.optimizer.weight_decay, config.optimizer.schedule.patience) == (100, 1e-8, 5)
    assert (config.run.patience, config.run.ema_decay, config.data.keys.stress) == (50, 0.995, "stress")
    assert not migration.refused
    for flag, part in {
        "patience": "trains on",
        "distributed": "all devices together",
        "loss": "config_weight",
        "wandb_name": "metrics.jsonl",
        "batch_size": "drops",
        "valid_batch_size": "valid_batch_atoms",
        "forces_key": "constraint",
        "stress_key": "null leaves",
        "valid_file": "IsolatedAtom",
        "compute_stress": "without effect",
    }.items():
        assert part in note(migration, flag), flag


def test_off23(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "isolated.json").write_text('{"1": -13.57, "6": -1029.9}')
    migration = migrated(OFF23)
    config = loaded(migration, tmp_path)
    assert config.data.e0s == {"H": -13.57, "C": -1029.9}
    assert config.model.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=2.0, scale=2.0, shift=3.0).hidden_irreps == "96x0e"
    stage = config.stage_two
    assert (stage.enabled, stage.start, stage.learning_rate, stage.energy_weight, stage.forces_weight) == (True, 115, 0.00025, 1000, 100)
    assert (config.loss.energy_weight, config.loss.forces_weight) == (40, 1000) and "never tested" in note(migration, "swa (--stage_two)")
    with pytest.raises(ConfigError, match="--E0s: the file absent.json cannot be read"):
        migrated(OFF23.replace("isolated.json", "absent.json"))


def test_fine_tuning(tmp_path):
    migration = migrated(FINE_TUNING)
    assert not migration.refused and "scale, shift" in note(migration, "foundation_model")
    assert "whose architecture and constants are kept" in note(migration, "scaling")
    config = loaded(migration, tmp_path)
    assert (config.start.model, config.data.e0s, config.loss.forces_weight, config.run.dtype) == ("small", "average", 1.0, "float32")


def test_multihead_fine_tuning_is_refused(tmp_path):
    """It is on by default in mace_run_train, and fetches structures to replay; the rest of the configuration stands."""
    command = FINE_TUNING.replace("--multiheads_finetuning False", "--foundation_head omat_pbe --E0s estimated --r_max 4.5")
    migration = migrated(command.replace("--E0s average ", "").replace("small", "mh-1"))
    assert [sentence.partition(":")[0] for sentence in migration.refused] == ["--multiheads_finetuning"]
    config = loaded(migration, tmp_path)
    assert (config.start.model, config.start.head, config.data.e0s) == ("mh-1", "omat_pbe", "estimated")
    assert "model.cutoff" not in migration.options
    assert "# LEFT OUT --multiheads_finetuning: macejax fetches" in (tmp_path / "migrated.yaml").read_text()


def test_the_ethanol_recipe(tmp_path):
    """`RECIPE` of the experiment and its configuration say the same."""
    folder = REPOSITORY / "experiments" / "rmd17_ethanol"
    lines = (folder / "run.py").read_text().split("RECIPE = (\n")[1].split("\n).split()")[0]
    recipe = "".join(line.strip().strip('"') for line in lines.splitlines())
    files = "--train_file rmd17_ethanol_train_01.xyz --test_file rmd17_ethanol_test_01.xyz"
    migration = migrated(f"mace_run_train {recipe} {files} --default_dtype float32 --max_num_epochs 20")
    ours, theirs = load_config(folder / "config.yaml"), loaded(migration, tmp_path)
    assert theirs.run.name == "ref" and theirs.model_copy(update={"run": ours.run}) == ours
    assert theirs.run.model_copy(update={"name": ours.run.name}) == ours.run
    assert "both weights are 1" in note(migration, "forces_weight")


def test_nothing_given_is_nothing_written():
    migration = migrated(MINIMAL)
    assert migration == Migration({"run.name": "a", "data.train": ["a.xyz"]}, (), ())


def test_command(tmp_path, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["migrate", *arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    words = ("--", "mace_run_train", *MINIMAL.split(), "--plot", "False", "--lbfgs")
    code, out, err = run(*words)
    assert code == 2 and not out and "--lbfgs: macejax has no L-BFGS." in err
    code, out, err = run("--partial", *words)
    assert code == 0 and "left out --lbfgs" in err and "--plot: " in err
    assert (
        "# LEFT OUT --lbfgs" in out and "# --plot: " in out and yaml.safe_load(out) == {"run": {"name": "a"}, "data": {"train": ["a.xyz"]}}
    )
    file = tmp_path / "run.yaml"
    code, out, err = run("-o", str(file), *words[:-1])
    assert code == 0 and not out and load_config(file).run.name == "a" and "# --plot: " in file.read_text()
    code, _, err = run("-o", str(file), *words[:-1])
    assert code == 2 and "--overwrite" in err
