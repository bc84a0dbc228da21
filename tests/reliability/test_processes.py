"""What needs a process of its own: signals, a full disk, several devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from macejax.checkpoint.load import load_model
from macejax.checkpoint.training import has_checkpoint
from macejax.config import TrainConfig, dump_config
from macejax.train.log import METRICS, read_metrics
from macejax.train.loop import train
from tests.reliability.tiny import configuration, shared_steps

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module", autouse=True)
def steps():
    with shared_steps():
        yield


def start(config: TrainConfig, *arguments: str, devices: int = 1, kilobytes: int | None = None) -> subprocess.Popen:
    """`macejax train` in a process with so many CPU devices, whose files may grow to so many kB only."""
    file = Path(config.run.directory) / f"{config.run.name}.yaml"
    file.write_text(dump_config(config))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "macejax.cli.main", "train", str(file), *arguments]
    if kilobytes is not None:
        command = ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash", *command]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": "" if kilobytes else CACHE}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")


def wait_for_step(folder: Path, process: subprocess.Popen) -> None:
    """Until the run has logged a step."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / METRICS).exists() and any(line["kind"] == "train" for line in read_metrics(folder)):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step was logged: {process.communicate()}")


@pytest.mark.thorough
def test_sigterm_saves_and_exits_0_and_another_process_goes_on_to_the_same_bits(tmp_path):
    options = {"run__epochs": 40, "run__log_every": 1, "stage_two__enabled": False, "run__validate_every": 20, "run__save_every": 1000}
    config = configuration(tmp_path, **options)
    process = start(config)
    wait_for_step(tmp_path / "tiny", process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "stopped by SIGTERM" in out, err
    assert has_checkpoint(tmp_path / "tiny" / "checkpoints" / "last") and not (tmp_path / "tiny" / "tiny.mace").exists()
    resumed = train(config, resume=True, quiet=True)
    steps = [line["step"] for line in read_metrics(tmp_path / "tiny") if line["kind"] == "train"]
    assert steps == list(range(1, 201))  # none twice, none left out
    whole = train(configuration(tmp_path, "whole", **options), quiet=True)
    for left, right in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(whole.state), strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.mark.thorough
def test_a_full_disk_is_an_error_that_names_the_path_and_the_last_checkpoint_stays(tmp_path):
    options = {"stage_two__enabled": False, "run__log_every": 1}
    train(configuration(tmp_path, run__epochs=2, **options), quiet=True)
    folder = tmp_path / "tiny" / "checkpoints"
    before = sorted(path.name for path in (folder / "last").iterdir())
    largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    longer = configuration(tmp_path, run__epochs=3, **options)
    process = start(longer, "--resume", kilobytes=largest // 2048)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and str(folder) in err and "earlier ones are untouched" in err, out + err
    assert sorted(path.name for path in (folder / "last").iterdir() if path.name.isdigit()) == before
    assert int(train(longer, resume=True, quiet=True).state.step) == 15


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    """Joined by jax.distributed; one is told to stop, both stop, both resume, and the result is that of one process."""
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    options = {"run__epochs": 60, "stage_two__start": 55, "run__log_every": 1, "run__validate_every": 10, "run__save_every": 1000}
    config = configuration(tmp_path, "both", **options)

    def both(*arguments: str) -> list[subprocess.Popen]:
        return [start(config, "--coordinator", address, "--processes", "2", "--process", rank, *arguments) for rank in ("0", "1")]

    first = both()
    wait_for_step(tmp_path / "both", first[0])
    first[1].send_signal(signal.SIGTERM)
    for process in first:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err
    assert not (tmp_path / "both" / "both.mace").exists()
    for process in both("--resume"):
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err
    one = train(configuration(tmp_path, "one", **options), quiet=True)
    models = [load_model(path).params for path in (one.model_path, tmp_path / "both" / "both.mace")]
    for left, right in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_the_number_of_devices_does_not_matter(tmp_path):
    """Two virtual devices from files to model file, against one."""
    options = {"run__epochs": 4, "stage_two__start": 3}
    process = start(configuration(tmp_path, "two", **options), "--device-count", "2", devices=2)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and "2 cpu device(s)" in out, out + err
    one = train(configuration(tmp_path, "one", **options), quiet=True)
    models = [load_model(path).params for path in (one.model_path, tmp_path / "two" / "two.mace")]
    for left, right in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-10)
