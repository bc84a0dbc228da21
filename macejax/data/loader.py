"""Order -> batches, ahead of time on a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from macejax.data.batch import Capacity, batch, stack
from macejax.data.edge_file import announce
from macejax.data.graph import Graph
from macejax.data.order import order
from macejax.data.shapes import choose_capacities, need, sizes_of, smallest_fit, spread, with_classes, worst_need
from macejax.data.structure import DataError

if TYPE_CHECKING:
    import jraph

SAMPLED_STEPS = 1000  # steps, and
SAMPLED_EPOCHS = 10  # epochs at most, that are looked at in order to choose the shapes


class Step(NamedTuple):
    """A batch and what is in it."""

    batch: jraph.GraphsTuple  # row form, with a leading device axis where there are devices
    indices: np.ndarray  # [<= batch_size] structures, in the order of the True entries of the batch's globals["mask"]


class Loader:
    """Batches of a training set, epoch by epoch.

    Step s of an epoch holds the structures `order(n, seed, epoch)[s * batch_size : (s + 1) * batch_size]`, whatever the devices; the last
    one may be smaller. Its structures are spread over the devices so that atoms balance, and the step has the smallest of a few shapes
    that were chosen beforehand; one of them fits any step. A data set of like structures has one shape.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        batch_size: int,
        *,
        seed: int,
        num_devices: int = 1,
        devices: Sequence[int] | None = None,
        dtype: Any = np.float32,
        shapes: int = 4,
        prefetch: int = 2,
    ):
        """Looks at sizes and chooses shapes; builds no batch yet.

        Args:
          graphs: the training set.
          batch_size: structures of a step, over all devices of all processes.
          seed: of the order.
          num_devices: devices of all processes together.
          devices: those that this process feeds; all of them by default.
          dtype: of the batches.
          shapes: how many static shapes there may be at most.
          prefetch: batches made ahead of time; 0 makes each when it is asked for.

        Raises:
          DataError: there is no structure.
        """
        if not graphs:
            raise DataError("the training set holds no structure.")
        if batch_size < 1 or num_devices < 1 or shapes < 1 or prefetch < 0:
            raise ValueError("batch_size, num_devices and shapes must be at least 1, and prefetch at least 0.")
        self._graphs = graphs
        self._sizes = sizes_of(graphs)
        self._batch_size = batch_size
        self._seed = seed
        self._num_devices = num_devices
        self._devices = list(range(num_devices) if devices is None else devices)
        if not self._devices or not set(self._devices) <= set(range(num_devices)):
            raise ValueError(f"devices must be some of 0 to {num_devices - 1}, not {self._devices}.")
        self._dtype = dtype
        self._prefetch = prefetch
        self.steps_per_epoch = -(-len(graphs) // batch_size)
        per_device = -(-min(batch_size, len(graphs)) // num_devices)
        worst = worst_need(self._sizes, per_device)
        needs = self._sample()
        self.capacities: list[Capacity] = with_classes(choose_capacities(needs, worst, shapes), needs, shapes)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Step]:
        """The steps of an epoch, from `start_step` on."""
        permutation = order(len(self._graphs), self._seed, epoch)
        steps = range(start_step, self.steps_per_epoch)
        if self._prefetch == 0:
            for step in steps:
                yield self._step(permutation, step)
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix="macejax-loader")
        ahead: deque[Future[Step]] = deque()
        try:
            for step in steps:
                ahead.append(pool.submit(self._step, permutation, step))
                if len(ahead) > self._prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def report(self) -> dict[str, Any]:
        """How well epoch 0 is packed: real edges per slot, real atoms per node, and the shapes there are and those it uses."""
        permutation = order(len(self._graphs), self._seed, 0)
        used = [smallest_fit(self.capacities, need(self._sizes, self._bins(permutation, step))) for step in range(self.steps_per_epoch)]
        nodes = sum(capacity.nodes for capacity in used) * self._num_devices
        slots = sum(capacity.num_slots for capacity in used) * self._num_devices
        return {
            "slot_efficiency": int(self._sizes.edges.sum()) / slots,
            "node_efficiency": int(self._sizes.nodes.sum()) / nodes,
            "shapes": [capacity._asdict() for capacity in self.capacities],
            "shapes_used": len(set(used)),
        }

    def _sample(self) -> list[Capacity]:
        """Needs of the steps of the first epochs; of whole steps, for a last, partial one deserves no shape of its own."""
        needs: list[Capacity] = []
        whole_steps = max(len(self._graphs) // self._batch_size, 1)
        for epoch in range(SAMPLED_EPOCHS):
            permutation = order(len(self._graphs), self._seed, epoch)
            for step in range(min(whole_steps, SAMPLED_STEPS - len(needs))):
                needs.append(need(self._sizes, self._bins(permutation, step)))
        return needs

    def _bins(self, permutation: np.ndarray, step: int) -> list[np.ndarray]:
        """The structures of a step, device by device."""
        members = permutation[step * self._batch_size : (step + 1) * self._batch_size]
        return [members[places] for places in spread(self._sizes.nodes[members], self._num_devices)]

    def _step(self, permutation: np.ndarray, step: int) -> Step:
        bins = self._bins(permutation, step)
        capacity = smallest_fit(self.capacities, need(self._sizes, bins))
        own = [bins[device] for device in self._devices]
        return Step(stack(make_batches(self._graphs, own, capacity, self._dtype)), np.concatenate(own))


def make_batches(
    graphs: Sequence[Graph], bins: Sequence[Sequence[int] | np.ndarray], capacity: Capacity, dtype: Any
) -> list[jraph.GraphsTuple]:
    """A batch of each of the bins, which hold numbers of graphs."""
    announce(graphs[member].receivers for members in bins for member in members)
    return [batch([graphs[member] for member in members], capacity, dtype, like=graphs[0]) for members in bins]
