"""On a CPU a computation that is compiled and run again, in another process, gives the same bits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

PROGRAM = """
import hashlib
from functools import partial
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import macejax
from macejax.config import LossConfig, OptimizerConfig
from macejax.data.batch import capacity_for, stack
from macejax.train.loss import loss_terms
from macejax.train.optimizer import make_optimizer
from macejax.train.parallel import make_train_step
from macejax.train.state import init_state
from tests.structures import labelled

def digest(*trees):
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(trees))).hexdigest()

structures = [labelled(name) for name in ("ethanol", "silicon8")]
small = {"hidden_irreps": "4x0e + 4x1o", "l_max": 1, "correlation": 1, "radial_mlp": (8,)}
config = macejax.ModelConfig(elements=(1, 6, 8, 14), e0s=(0.0,) * 4, cutoff=3.0, **small)
for dtype in ("float32",):
    model = macejax.init_model(config, jax.random.key(0), np.dtype(dtype))
    graphs = [macejax.build_graph(structure, config.elements, config.cutoff, config.e0s) for structure in structures]
    batch = macejax.batch(graphs, capacity_for(graphs), dtype)
    apply = macejax.build(config).apply
    found = jax.jit(partial(macejax.predict, apply))(model.params, batch)
    assert np.abs(found.forces).max() > 0 and np.isfinite(found.forces).all()
    optimizer = make_optimizer(OptimizerConfig(), model.params, 1)
    step = make_train_step(apply, loss_terms(LossConfig()), optimizer, num_devices=1)
    before, state = digest(model.params), init_state(model.params, optimizer)
    for _ in range(2):
        state, info = step(state, stack([batch]))
    assert bool(info["finite"]) and digest(state.params) != before
    print(dtype, digest(found.energy, found.forces), digest(state.params, state.opt_state, info["loss"]))
"""


@pytest.mark.thorough
@pytest.mark.multiprocess
def test_two_processes_compute_the_same_bits():
    """Energy and forces, and two steps of training, compiled as users have them; nothing comes from the cache of programs."""
    environment = os.environ | {
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    command = [sys.executable, "-c", PROGRAM]
    runs = [subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (run.communicate(timeout=400)[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert first == second and len(set(first.split())) == 3
