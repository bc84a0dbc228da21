"""The README keeps its word: its example runs, its files exist, its commands are there."""

from __future__ import annotations

import re
import subprocess
import sys

import jax
import numpy as np

from macejax.checkpoint.model_file import save_model
from macejax.cli.main import COMMANDS
from macejax.config import ModelConfig
from macejax.model.model import init_model
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.splitlines()) <= 21
    config = ModelConfig(
        elements=(1, 6, 8), e0s=(-10.0, -48.0, -100.0), cutoff=3.0, hidden_irreps="4x0e", l_max=1, correlation=1, radial_mlp=(8,), scale=0.1
    )
    (tmp_path / "demo_run" / "ethanol").mkdir(parents=True)
    save_model(tmp_path / "demo_run" / "ethanol" / "ethanol.mace", init_model(config, jax.random.key(0), np.float32))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(72, 3)"


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
