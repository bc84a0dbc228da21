"""Twenty steps of training in a process of their own: `python -m tests.train.worker OUT DEVICES... [--rank RANK PORT] [--dtype float32]`.

Alone, the process trains once for every number of devices. With a rank it is one of two processes that train together.
"""

from __future__ import annotations

import argparse
import json
import os

STEPS = 20
BATCH = 3  # less than four devices: one of them gets only padding


def train(num_devices: int, mine: slice, dtype: str) -> dict[str, object]:
    """The state after training on `num_devices` devices, of which this process feeds the rows `mine`, losses, and a validation."""
    import jax

    from macejax.config import LossConfig, OptimizerConfig, ScheduleConfig
    from macejax.data.batch import Capacity
    from macejax.train.loss import loss_terms
    from macejax.train.metrics import gather_sums, mean_loss
    from macejax.train.optimizer import make_optimizer
    from macejax.train.parallel import make_eval_step, make_train_step
    from macejax.train.schedule import observe_validation
    from macejax.train.state import end_epoch, eval_params, init_state, record_validation
    from tests.train.toy import graphs, init_params, sharded, site_energy, structures

    made = graphs(structures(9))
    capacity = Capacity(nodes=15, slots=4 * (max(graph.max_degree for graph in made) // 4 + 1), graphs=4, species=3)
    groups = [made[start : start + BATCH] for start in range(0, len(made), BATCH)]
    batches = [jax.tree.map(lambda x: x[mine], sharded(group, num_devices, capacity, dtype)) for group in groups]

    params = init_params(dtype=dtype)
    per_process = num_devices // jax.process_count()
    loss = loss_terms(LossConfig(kind="stress"))
    schedule = ScheduleConfig(patience=1)
    optimizer = make_optimizer(OptimizerConfig(weight_decay=1e-3, schedule=schedule), params, len(batches))
    step = make_train_step(site_energy, loss, optimizer, ema_decay=0.99, num_devices=per_process)
    state = init_state(params, optimizer, ema=True)
    infos = []
    for number in range(STEPS):
        state, info = step(state, batches[number % len(batches)])
        infos.append(info)
        if number % len(batches) == len(batches) - 1:
            state = record_validation(end_epoch(state), 1.0)
            state = state._replace(opt_state=observe_validation(state.opt_state, 1.0, schedule))
    # Every process validates on everything: eval steps do not talk.
    result = make_eval_step(site_energy, loss, num_devices=per_process)(eval_params(state), sharded(made, per_process, dtype=dtype))
    sums = gather_sums([(result.errors, result.index)], len(made))
    return {
        "state": {jax.tree_util.keystr(path): leaf.tolist() for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state))},
        "losses": [float(info["loss"]) for info in jax.device_get(infos)],
        "suspects": [int(info["suspects"].max()) for info in jax.device_get(infos)],
        "validation": mean_loss(loss, [result.terms])[0],
        "forces": sums["forces"].square.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("devices", type=int, nargs="+")
    parser.add_argument("--rank", type=int, nargs=2)
    parser.add_argument("--dtype", default="float64")
    options = parser.parse_args()
    here = max(options.devices) if options.rank is None else options.devices[0] // 2
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={here}"
    import jax

    jax.config.update("jax_enable_x64", True)
    mine = slice(None)
    if options.rank is not None:
        rank, port = options.rank
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank, initialization_timeout=120)
        mine = slice(rank * here, (rank + 1) * here)
    found = {number: train(number, mine, options.dtype) for number in options.devices}
    with open(options.out, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
