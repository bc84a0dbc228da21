"""The first losses of training, mace-torch and macejax side by side, from mace-torch's own initial weights and in its own batch order.

`mace_run_train` runs as it is, up to the moment where its first epoch would begin; then its own `take_step` is called on its own batches,
and macejax's train step on the same structures. Prints JSON: {"mace-torch": [losses], "macejax": [losses]}.

    python first_losses.py --steps 20 -- --name first --train_file FILE ... (any arguments of mace_run_train)
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import jax
import numpy as np

from macejax.checkpoint.torch_import import from_torch
from macejax.config import LossConfig, OptimizerConfig
from macejax.data.batch import batch, capacity_for, stack
from macejax.data.graph import build_graph
from macejax.data.structure import Structure
from macejax.model.model import Model, build
from macejax.train.loss import loss_terms
from macejax.train.optimizer import make_optimizer
from macejax.train.parallel import make_train_step
from macejax.train.state import init_state


def main(arguments: Sequence[str]) -> None:
    jax.config.update("jax_enable_x64", True)
    os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # mace-torch loads the constants that its e3nn ships
    own, theirs = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    steps = int(own[own.index("--steps") + 1])
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        settings, loss, model, batches, expected = torch_losses([*theirs, "--work_dir", folder, "--default_dtype", "float64"], steps)
        losses = macejax_losses(settings, loss, model, batches)
    print(json.dumps({"mace-torch": expected, "macejax": losses}))


def torch_losses(arguments: Sequence[str], steps: int) -> tuple[Any, LossConfig, Model, list[list[Structure]], list[float]]:
    """Settings of mace_run_train, its loss, its initial model, the structures of each step, and the losses."""
    from mace import tools
    from mace.cli import run_train
    from mace.tools.train import take_step

    captured: dict[str, Any] = {}

    class Captured(Exception):
        """Leaves mace_run_train where its training would begin."""

    def instead_of_training(**names: Any) -> None:
        captured.update(names)
        raise Captured

    train, tools.train = tools.train, instead_of_training
    settings = tools.build_default_arg_parser().parse_args(list(arguments))
    try:
        run_train.run(settings)
    except Captured:
        pass
    finally:
        tools.train = train
    module, function = captured["model"], captured["loss_fn"]
    # Asked of the loss itself: with --loss ef, mace_run_train ignores --energy_weight and --forces_weight.
    loss = LossConfig(energy_weight=float(function.energy_weight), forces_weight=float(function.forces_weight))
    model = from_torch(module)
    batches, losses = [], []
    names = ("model", "loss_fn", "optimizer", "ema", "output_args", "max_grad_norm", "device")
    for torch_batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(captured["train_loader"])), steps):
        batches.append(structures(torch_batch, [int(number) for number in module.atomic_numbers]))
        _, info = take_step(batch=torch_batch, **{name: captured[name] for name in names})
        losses.append(float(info["loss"]))
    return settings, loss, model, batches, losses


def structures(torch_batch: Any, elements: Sequence[int]) -> list[Structure]:
    """The structures of a batch of mace-torch, molecules only: its cells are invented where there is none."""
    numbers = np.asarray(elements)[torch_batch.node_attrs.argmax(dim=-1).numpy()]
    parts = list(zip(torch_batch.ptr[:-1].tolist(), torch_batch.ptr[1:].tolist(), torch_batch.energy.tolist(), strict=True))
    positions, forces = torch_batch.positions.detach().numpy(), torch_batch.forces.numpy()
    return [Structure(numbers[a:b], positions[a:b], energy=energy, forces=forces[a:b]) for a, b, energy in parts]


def macejax_losses(settings: Any, loss: LossConfig, model: Model, batches: Sequence[Sequence[Structure]]) -> list[float]:
    """Loss of each step of macejax, with the settings of mace_run_train."""
    config = model.config
    graphs = [[build_graph(structure, config.elements, config.cutoff, config.e0s) for structure in step] for step in batches]
    needs = [capacity_for(step) for step in graphs]
    capacity = needs[0]._make(max(sizes) for sizes in zip(*needs, strict=True))
    options = OptimizerConfig(learning_rate=settings.lr, weight_decay=settings.weight_decay, clip_norm=settings.clip_grad)
    optimizer = make_optimizer(options, model.params, steps_per_epoch=len(batches))
    decay = settings.ema_decay if settings.ema else None
    train_step = make_train_step(build(config).apply, loss_terms(loss), optimizer, ema_decay=decay, num_devices=1)
    state = init_state(model.params, optimizer, ema=decay is not None)
    losses = []
    for step in graphs:
        state, info = train_step(state, stack([batch(step, capacity, np.float64)]))
        losses.append(float(info["loss"]))
    return losses


if __name__ == "__main__":
    main(sys.argv[1:])
