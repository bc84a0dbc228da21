"""How scripts, commands and YAML files of mace_run_train are read."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from macejax.config import ConfigError
from macejax.config.migrate import migrate, read_source
from macejax.config.migrate.shell import find_command
from tests.migrate.commands import MINIMAL, loaded


def test_yaml_of_mace_run_train(tmp_path):
    (tmp_path / "mace.yaml").write_text(
        "name: water\ntrain_file: [a.xyz, b.xyz]\nE0s: {1: -13.6, 8: -2042.0}\nema: true\nswa: false\nlr: 1e-3\nmax_L: null\n"
        'radial_MLP: "[32, 32]"\nstage_two_lr: 0.1\n'
    )
    config = loaded(migrate(read_source(tmp_path / "mace.yaml")), tmp_path)
    assert (config.data.train, config.data.e0s) == (("a.xyz", "b.xyz"), {"H": -13.6, "O": -2042.0})
    assert (config.run.ema_decay, config.stage_two.enabled, config.optimizer.learning_rate) == (0.99, False, 1e-3)
    assert config.model.radial_mlp == (32, 32)
    (tmp_path / "job.sh").write_text("python -m mace.cli.run_train --lr=2e-3 --config mace.yaml --name other")
    other = loaded(migrate(read_source(tmp_path / "job.sh")), tmp_path)
    assert (other.run.name, other.optimizer.learning_rate, other.run.ema_decay) == ("other", 2e-3, 0.99)


def test_one_head_is_flags(tmp_path):
    (tmp_path / "mace.yaml").write_text(
        "name: one\nenergy_key: general\nforces_key: general\ntest_file: ignored.xyz\n"
        "heads:\n  dft:\n    train_file: a.xyz\n    E0s: average\n    energy_key: mine\n    arrays_keys: {forces: closest}\n"
    )
    migration = migrate(read_source(tmp_path / "mace.yaml"))
    config = loaded(migration, tmp_path)
    assert (config.data.keys.energy, config.data.keys.forces, config.data.train) == ("mine", "closest", ("a.xyz",))
    assert config.data.test is None and config.data.e0s == "average" and not migration.refused


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("python train.py --lr 3", "holds no call of mace_run_train"),
        ("mace_run_train --name a\nmace_run_train --name b", "2 calls"),
        ("mace_run_train --name=$NAME", "--name=$NAME"),
        ('mace_run_train --name "a`date`"', "a$date$"),
        ("mace_run_train --name 'a", "not closed"),
        ("mace_run_train --nam a --train_file a.xyz --lr fast", "--lr must be a number, not 'fast'"),
        ("mace_run_train --train_fil a.xyz --mode x", "--model or --model_dir"),
        ("mace_run_train --trian_file a.xyz", "did you mean --train_file?"),
        ("mace_run_train --ema=True", "takes no value"),
        ("mace_run_train --lr --ema", "--lr needs a value"),
        ("mace_run_train --name a b", "'b' belongs to no flag"),
        ("mace_run_train --name a", "--train_file is missing"),
        ("mace_run_train --config absent.yaml", "absent.yaml"),
        (f"mace_run_train {MINIMAL} --E0s '{{1: x}}'", "--E0s: "),
        (f"mace_run_train {MINIMAL} --E0s '{{Xx: 1}}'", "--E0s: "),
        (f"mace_run_train {MINIMAL} --radial_MLP 64", "--radial_MLP: "),
        (f"mace_run_train {MINIMAL} --loss mse", "must be one of ef, weighted"),
    ],
)
def test_errors_are_a_sentence(script, sentence, tmp_path):
    (tmp_path / "job.sh").write_text(script)
    with pytest.raises(ConfigError) as error:
        migrate(read_source(tmp_path / "job.sh"))
    assert sentence in str(error.value)


def test_the_shell_is_read_as_a_shell_does(tmp_path):
    (tmp_path / "job.sh").write_text(
        '# mace_run_train --name no\ncd "$HOME" && OMP_NUM_THREADS=2 torchrun --nproc 2 $(which mace_run_train) --name=\'a\'"b"\\\n_c '
        '--E0s="{1: \\\n -1.0}" --train_file a#b.xyz --seed 3 2>err.txt <in.txt | tee --lr 5 #\'\n'
    )
    arguments = read_source(tmp_path / "job.sh")
    assert {name: arguments.values[name] for name in arguments.given} == {
        "name": "ab_c",
        "E0s": "{1:  -1.0}",
        "train_file": "a#b.xyz",
        "seed": 3,
    }


@pytest.mark.multiprocess
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    "script",
    [
        """mace_run_train --a='x "y" $z' --b="x 'y' \\$z \\\\ \\n" --c x\\ y\\'z --d ''""",
        "mace_run_train --a 1 \\\n  --b 2 # rest 'of\nls > /dev/null",
        "cd . && X=1 mace_run_train --a {1:2} --b=a#b; true --c",
        "mace_run_train --a 1 2>/dev/null --b 3>/dev/null 4 < /dev/null",
        "mace_run_train --a 'two\nlines' --b \"two\\\nlines\" --c two\\\nlines",
        "mace_run_train --a --b '--c' \"--d=e f\"'g'h || true",
        "(true)\ntrue | cat; mace_run_train --a 1&& true",
    ],
)
def test_words_are_those_of_bash(script):
    define = "mace_run_train() { printf '%s\\0' \"$@\"; }\n"
    done = subprocess.run(["bash", "-c", define + script], capture_output=True, check=True)
    assert find_command(script) == done.stdout.decode().split("\0")[:-1]
