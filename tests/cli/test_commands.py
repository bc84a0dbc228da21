"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import ase.io
import numpy as np
import pytest

from macejax.cli.main import COMMANDS, main
from macejax.cli.process import fail
from macejax.config import dump_config
from macejax.config.model import atomic_number
from macejax.data.write import write
from macejax.train.log import open_log
from tests.reliability.tiny import configuration, waters


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folder of a finished run of `macejax train`."""
    folder = tmp_path_factory.mktemp("cli")
    config = configuration(folder, run__epochs=50, stage_two__enabled=False, run__validate_every=2)
    (folder / "run.yaml").write_text(dump_config(config))
    write(folder / "test.xyz", waters(5, seed=3))
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "train",
                str(folder / "run.yaml"),
                "--epochs",
                "2",
                "--test",
                str(folder / "test.xyz"),
                "--set",
                "data.batch_size=6",
                "--quiet",
            ]
        )
    assert not stopped.value.code
    return folder


def test_help_is_quick_and_lists_the_commands():
    listing = "print('heavy', sorted({'jax', 'numpy', 'ase'} & set(sys.modules)))"
    code = f"import sys; from macejax.cli.main import main\ntry: main(['--help'])\nfinally: {listing}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy []" in done.stdout and all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys, name):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0 and f"Usage: macejax {name}" in out


def test_flags_and_set_reach_the_run(trained):
    text = (trained / "tiny" / "config.yaml").read_text()
    assert "epochs: 2" in text and "batch_size: 6" in text and (trained / "tiny" / "tiny.mace").exists()


def test_the_report_stands_alone(trained):
    page = (trained / "tiny" / "report.html").read_text()
    assert "http" not in page and "<script" not in page and page.count("data:image/png;base64,") == 2
    for part in ("MAE F meV/Å", "test: odd", "learning_rate: 0.01", "isolated atoms"):
        assert part in page


def test_info_describes_models_and_data(trained, capsys):
    code, out, _ = run(capsys, "info", trained / "tiny" / "tiny.mace")
    assert code == 0 and "H (-1 eV), O (-8 eV)" in out and "float64" in out and "MAE, test" in out
    code, out, _ = run(capsys, "info", trained / "tiny" / "tiny.mace", "--json")
    assert json.loads(out)["config"]["elements"] == [1, 8]
    code, out, _ = run(capsys, "info", trained / "water.xyz")
    assert code == 0 and "22, 3 to 3 atoms, 0 periodic" in out and "even (8), odd (14)" in out


def test_evaluate_writes_predictions_and_the_table(trained, tmp_path, capsys):
    arguments = ("evaluate", trained / "tiny" / "tiny.mace", trained / "test.xyz", "--output", tmp_path / "out.xyz")
    code, out, _ = run(capsys, *arguments)
    assert code == 0 and "all: odd" in out
    frames = ase.io.read(tmp_path / "out.xyz", ":")
    error = np.mean([abs(frame.info["MACE_energy"] - frame.info["REF_energy"]) / 3 for frame in frames])
    forces = np.mean([np.abs(frame.arrays["MACE_forces"] - frame.arrays["REF_forces"]) for frame in frames])
    row = next(line.split() for line in out.splitlines() if line.startswith("all "))
    assert float(row[2]) == pytest.approx(1000 * error, rel=1e-3) and float(row[4]) == pytest.approx(1000 * forces, rel=1e-3)
    final = [json.loads(line) for line in (trained / "tiny" / "metrics.jsonl").read_text().splitlines() if '"subset": "test"' in line]
    assert final[0]["errors"]["all"]["forces"]["mae"] == pytest.approx(forces, rel=1e-9)
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "is there already" in err


def test_evaluate_keeps_what_the_file_says(trained, tmp_path, capsys):
    """Labels, under their names, and what macejax does not read; the copy evaluates alike."""
    frames = ase.io.read(trained / "test.xyz", ":")
    for number, frame in enumerate(frames):
        frame.info["dft"] = frame.info.pop("REF_energy")
        frame.info |= {"number": number, "note": "it's here"}
        frame.arrays |= {"tags": np.arange(3), "MACE_forces": np.zeros((3, 3))}
    ase.io.write(tmp_path / "in.xyz", frames)
    model, tables = trained / "tiny" / "tiny.mace", []
    for source, target in (("in.xyz", "out.xyz"), ("out.xyz", "again.xyz")):
        code, out, _ = run(capsys, "evaluate", model, tmp_path / source, "-o", tmp_path / target, "--key", "energy=dft")
        tables.append(out.partition("\n5 structures")[0])
        assert code == 0
    assert tables[0] == tables[1] and "MAE E" in tables[0]
    for number, frame in enumerate(ase.io.read(tmp_path / "again.xyz", ":")):
        assert frame.info["number"] == number and frame.info["note"] == "it's here" and frame.arrays["tags"].tolist() == [0, 1, 2]
        assert {"dft", "MACE_energy", "config_type"} < frame.info.keys() and "REF_energy" not in frame.info
        np.testing.assert_allclose(frame.arrays["REF_forces"], frames[number].arrays["REF_forces"], atol=1e-8)  # as ASE writes them
        assert frame.arrays["MACE_forces"].any()
    code, _, err = run(capsys, "evaluate", model, tmp_path / "out.xyz", "-o", tmp_path / "x.xyz", "--key", "energy=MACE_energy")
    assert code == 2 and "would replace the labels MACE_energy" in err


def test_evaluate_refuses_before_it_computes(trained, tmp_path, capsys):
    arguments = ("evaluate", trained / "tiny" / "tiny.mace", "absent.xyz", "-o")
    code, _, err = run(capsys, *arguments, tmp_path / "absent" / "out.xyz")
    assert code == 2 and "there is no folder" in err
    code, _, err = run(capsys, *arguments, tmp_path / "out.xyz", "--device-count", 99)
    assert code == 2 and "--device-count is 99, but there are" in err and err.count("\n") == 1


def test_evaluate_agrees_with_the_calculator(trained, tmp_path, capsys):
    from macejax.simulate import Calculator

    run(capsys, "evaluate", trained / "tiny" / "tiny.mace", trained / "test.xyz", "--output", tmp_path / "out.xyz")
    frame = ase.io.read(tmp_path / "out.xyz", 2)
    predicted = frame.info["MACE_energy"], frame.arrays["MACE_forces"]
    frame.calc = Calculator(trained / "tiny" / "tiny.mace")
    assert frame.get_potential_energy() == pytest.approx(predicted[0], abs=1e-9)
    np.testing.assert_allclose(frame.get_forces(), predicted[1], atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("trian",), 2, "train"),
        (("train",), 2, "no training file is named"),
        (("train", "--train", "absent.xyz", "--set", "run.seeed=1"), 2, "did you mean 'seed'"),
        (("info", "absent.mace"), 1, "absent.mace"),
        (("evaluate", "absent.mace", "absent.xyz"), 1, "absent.mace"),
        (("config", "absent.yaml"), 2, "there is no configuration file absent.yaml"),
        (("config", "--set", "run.seed=1"), 2, "give FILE too"),
        (("info", __file__), 1, "ASE cannot read it"),
    ],
    ids=str,
)
def test_errors_are_one_sentence(capsys, monkeypatch, tmp_path, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    found, _, err = run(capsys, *arguments)
    assert found == code and sentence in err and "Traceback" not in err


MODEL = Path(__file__).parents[1] / "fixtures" / "parity_one_layer.mace"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("info", "broken.model"), 1, "the end of it is missing"),
        (("evaluate", "pointer.model", "absent.xyz"), 1, "Git LFS"),
        (("info", MODEL, "--key", "energy=e"), 2, "--key names labels of structures"),
        (("convert", MODEL, "taken.mace"), 2, "--overwrite"),
        (("convert", MODEL, "new.mace", "--dtype", "float16"), 2, "float32 or float64"),
        (("convert", MODEL, "new.mace", "--head", "other"), 1, "no head 'other'"),
        (("convert", MODEL, "new.mace", "--elements", "U"), 1, "does not know U"),
        (("convert", MODEL, "new.mace", "--elements", "Qq"), 1, "'Qq' is no element"),
        (("convert", MODEL, "new.mace", "--elements", ","), 1, "no elements are named"),
        (("heads", MODEL, "--select", "Default"), 2, "both an output and one of"),
        (("heads", MODEL, "new.mace", "--remove", "Default"), 1, "the only head"),
        (("export", MODEL, "taken.mace"), 2, "--overwrite"),
        (("export", "medium-mpa", "new.model"), 1, "medium-mpa-0"),
        (("info", "mace_polar-1-s"), 1, "long-range"),
    ],
    ids=str,
)
def test_errors_of_models_are_one_sentence(capsys, monkeypatch, tmp_path, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    Path("broken.model").write_bytes(b"PK\x03\x04 and then nothing")
    Path("pointer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    Path("taken.mace").touch()
    found, _, err = run(capsys, *arguments)
    assert found == code and sentence in err and "Traceback" not in err and err.count("\n") == 1


def test_slips_of_our_own_print_the_traceback(capsys):
    """A ValueError that macejax did not raise itself is none that a user could mend."""
    for slip, traceback in ((lambda: int("x"), True), (lambda: atomic_number("Qq"), False)):
        try:
            slip()
        except ValueError as error:
            assert fail(error, debug=False) == 1
        assert ("Traceback" in capsys.readouterr().err) == traceback


def test_a_terminal_without_the_letter_for_angstrom_is_no_reason_to_stop(monkeypatch):
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BytesIO(), encoding="ascii"))
    with pytest.raises(SystemExit):
        main(["config"])
    with open_log(None) as log:
        log.say("1 meV/Å")
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue().endswith(b"1 meV/?\n")


def test_debug_prints_the_traceback(capsys):
    code, _, err = run(capsys, "info", "absent.mace", "--debug")
    assert code == 1 and "Traceback" in err


def test_a_wrong_file_of_data_stops_the_training_with_its_name(capsys, tmp_path):
    (tmp_path / "bad.xyz").write_text("3\nREF_energy=1\nH 0 0 0\n")
    code, _, err = run(capsys, "train", "--train", tmp_path / "bad.xyz", "--set", f"run.directory={tmp_path}")
    assert code == 1 and "bad.xyz" in err and "Traceback" not in err


def test_config_prints_a_template_and_completes_a_file(capsys, tmp_path):
    code, out, _ = run(capsys, "config")
    assert code == 0 and "# Learning rate." in out
    (tmp_path / "run.yaml").write_text("data: {train: a.xyz}")
    code, out, _ = run(capsys, "config", tmp_path / "run.yaml", "--set", "run.seed=7")
    assert code == 0 and "seed: 7" in out
