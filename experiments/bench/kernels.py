"""The sum over neighbours alone, with its gather and its gradient: ours beside the kernels of e3j and cuequivariance.

python experiments/bench/kernels.py water-1536 [--model L1] [--dtype float32] [--only plain,e3j] [--output FILE]

Random features, weights and harmonics on the graph of a system, the weights of an edge and of its reverse equal and the harmonics of their
parity, as in a model. All are given the same couplings, those of e3j; nobody is timed whose messages or gradients differ from those of
a loop over edges in float64. e3j and cuequivariance take part where they are installed, with kernels on a CUDA device and in plain JAX
elsewhere; they get a list of edges, we get rows with their empty slots.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import systems
from cases import CUTOFF, MODELS

import macejax
from macejax.data.batch import capacity_for
from macejax.data.read import from_atoms
from macejax.model.coupling import convolution_paths
from macejax.ops import neighbor_sum
from macejax.ops.gather import gather_neighbors

REPEATS, CALLS = 7, 10
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}  # of the largest value


class Problem(NamedTuple):
    """The graph, the couplings and the arrays."""

    rows: tuple[
        tuple[tuple[int, int, int, float], ...], ...
    ]  # of every component of the messages: weight, harmonic, component, coefficient
    parity: np.ndarray  # of harmonics, [Y]
    senders: np.ndarray  # [E], sorted by receiver
    receivers: np.ndarray
    slot: np.ndarray  # [E], place in rows [N * M]
    row_senders: np.ndarray  # [N, M]
    reverse: np.ndarray  # [N * M]
    weights: np.ndarray  # [E, P, K]
    harmonics: np.ndarray  # [E, Y]
    features: np.ndarray  # [N, D, K]
    cotangent: np.ndarray  # [N, messages, K]


# (features, weights, harmonics) -> messages; weights and harmonics as the contestant has edges.
Sum = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# An array of edges [E, ...] as the contestant has it, and back.
Layout = Callable[[np.ndarray], np.ndarray]


class Contestant(NamedTuple):
    sum: Sum
    to_edges: Layout
    from_edges: Layout


def main() -> None:
    """Check everybody, then time everybody in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system")
    parser.add_argument("--model", choices=[name for name in MODELS if name in ("L0", "L1", "L2")], default="L1")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--only", default=",".join(MAKERS), help="comma-separated, of: " + ", ".join(MAKERS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    jax.config.update("jax_default_matmul_precision", "highest")
    problem = make_problem(options.system, int(options.model[1]), options.channels)
    exact = reference(problem)
    calls: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {}
    for name in options.only.split(","):
        try:
            contestant = MAKERS[name](problem)
        except ImportError as error:
            print(f"{name}: {error}", flush=True)
            continue
        calls[name] = prepared(problem, contestant, options.dtype, exact, name)
    found: dict[str, dict[str, float]] = {name: {} for name in calls}
    for kind, place in (("messages", 0), ("messages and gradient", 1)):
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(REPEATS):
            for name, call in calls.items():
                times[name].append(per_call(call[place]))
        for name, all_of_it in times.items():
            found[name][kind] = statistics.median(all_of_it)
    edges, atoms = len(problem.senders), len(problem.features)
    print(f"{jax.devices()[0].device_kind}, {options.system}: {atoms} atoms, {edges} edges, {problem.row_senders.shape[1]} slots a row")
    for name, by_kind in found.items():
        print(
            f"{name:20s}", ", ".join(f"{kind} {1e3 * x:.3f} ms ({1e9 * x / edges:.2f} ns/edge)" for kind, x in by_kind.items()), flush=True
        )
    if options.output:
        about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "date": time.strftime("%Y-%m-%d"), **vars(options)}
        options.output.write_text(json.dumps({**about, "output": str(options.output), "edges": edges, "seconds": found}, indent=1) + "\n")


def make_problem(system: str, degree: int, channels: int, seed: int = 0) -> Problem:
    """`degree`: largest of the features."""
    structures = [from_atoms(frame) for frame in systems.make(system)]
    elements = sorted({int(z) for structure in structures for z in structure.numbers})
    graphs = [macejax.build_graph(structure, elements, CUTOFF) for structure in structures]
    batch = macejax.batch(graphs, capacity_for(graphs))
    nodes = len(batch.nodes["species"])
    row_senders, mask = np.asarray(batch.senders).reshape(nodes, -1), np.asarray(batch.edges["mask"]).reshape(-1)
    slot = np.flatnonzero(mask)
    reverse = np.asarray(batch.edges["reverse"]).reshape(-1)
    back = np.searchsorted(slot, reverse[slot])  # of every edge, the place of its reverse among the edges
    sent = tuple(f"{l}{'eo'[l % 2]}" for l in range(degree + 1))
    harmonics = tuple(f"{l}{'eo'[l % 2]}" for l in range(4))
    rows = couplings(sent, harmonics)
    parity = np.concatenate([np.full(2 * l + 1, (-1.0) ** l) for l in range(4)])
    random = np.random.default_rng(seed)
    count = 1 + max(p for row in rows for p, *_ in row)
    weights, angular = random.normal(size=(len(slot), count, channels)), random.normal(size=(len(slot), 16))
    return Problem(
        rows,
        parity,
        row_senders.reshape(-1)[slot],
        slot // row_senders.shape[1],
        slot,
        row_senders,
        reverse,
        (weights + weights[back]) / 2,
        (angular + parity * angular[back]) / 2,
        random.normal(size=(nodes, (degree + 1) ** 2, channels)),
        random.normal(size=(nodes, len(rows), channels)),
    )


def couplings(sent: tuple[str, ...], harmonics: tuple[str, ...]) -> tuple[tuple[tuple[int, int, int, float], ...], ...]:
    """Of every row (path, m3), the terms (path, harmonic, component, coefficient)."""
    rows = []
    for p, path in enumerate(convolution_paths(sent, harmonics, harmonics)):
        first, start = int(path.harmonic[:-1]) ** 2, int(path.node[:-1]) ** 2
        for matrix in path.coefficients:
            places = np.argwhere(np.abs(matrix) > 1e-12).tolist()
            rows.append(tuple((p, first + m1, start + m2, float(matrix[m1, m2])) for m1, m2 in places))
    return tuple(rows)


def reference(problem: Problem) -> tuple[np.ndarray, ...]:
    """Messages and gradients by features, weights and harmonics, in numpy."""
    out = np.zeros_like(problem.cotangent)
    by = [np.zeros_like(x) for x in (problem.features, problem.weights, problem.harmonics)]
    by_sent = np.zeros((len(problem.senders), *problem.features.shape[1:]))
    sent, g = problem.features[problem.senders], problem.cotangent[problem.receivers]
    for r, row in enumerate(problem.rows):
        total = np.zeros_like(g[:, 0])
        for p, y, d, c in row:
            weight, harmonic = problem.weights[:, p], c * problem.harmonics[:, y, None]
            total += weight * harmonic * sent[:, d]
            by_sent[:, d] += weight * harmonic * g[:, r]
            by[1][:, p] += harmonic * sent[:, d] * g[:, r]
            by[2][:, y] += c * np.sum(weight * sent[:, d] * g[:, r], axis=1)
        np.add.at(out[:, r], problem.receivers, total)
    np.add.at(by[0], problem.senders, by_sent)
    return (out, *by)


def prepared(problem: Problem, contestant: Contestant, dtype: str, exact: tuple[np.ndarray, ...], name: str) -> tuple:
    """What calls it, alone and with its gradient, once it is known to be right."""
    arrays = (problem.features, contestant.to_edges(problem.weights), contestant.to_edges(problem.harmonics))
    arguments = jax.device_put(tuple(np.asarray(x, dtype) for x in arrays))
    cotangent = jax.device_put(np.asarray(problem.cotangent, dtype))

    def both(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        out, pullback = jax.vjp(contestant.sum, *arguments)
        return (out, *pullback(cotangent))

    alone, both = jax.jit(contestant.sum), jax.jit(both)
    out, by_features, *by_edges = map(np.asarray, both(*arguments))
    found = (out, by_features, *map(contestant.from_edges, by_edges))
    for what, x, y in zip(("messages", "gradient by features", "by weights", "by harmonics"), found, exact, strict=True):
        error = np.abs(x - y).max() / np.abs(y).max()
        if not error < TOLERANCE[dtype]:
            raise SystemExit(f"{name}: {what} are wrong by {error:.1e} of the largest.")
    np.testing.assert_allclose(alone(*arguments), out, rtol=0, atol=TOLERANCE[dtype] * np.abs(out).max())
    return lambda: alone(*arguments), lambda: both(*arguments)


def per_call(call: Callable[[], jax.Array]) -> float:
    begun = time.perf_counter()
    for _ in range(CALLS):
        found = call()
    jax.block_until_ready(found)
    return (time.perf_counter() - begun) / CALLS


def ours(use: bool, problem: Problem) -> Contestant:
    nodes, slots = problem.row_senders.shape
    senders, reverse = jnp.asarray(problem.row_senders, jnp.int32), jnp.asarray(problem.reverse, jnp.int32)

    def to_edges(x: np.ndarray) -> np.ndarray:
        rows = np.zeros((nodes * slots, *x.shape[1:]), x.dtype)
        rows[problem.slot] = x
        return rows.reshape(nodes, slots, *x.shape[1:])

    def summed(features: jax.Array, weights: jax.Array, harmonics: jax.Array) -> jax.Array:
        neighbor_sum.use_kernels(use)  # holds for what is traced here
        try:
            return neighbor_sum.sum_neighbors(problem.rows, weights, harmonics, gather_neighbors(features, senders, reverse))
        finally:
            neighbor_sum.use_kernels(True)

    return Contestant(summed, to_edges, lambda x: x.reshape(nodes * slots, *x.shape[2:])[problem.slot])


def e3j(ordering: str, problem: Problem) -> Contestant:
    from e3j.ops.coef import Coef4D
    from e3j.ops.convolution import CUDAConvolutionParams, convolution
    from e3j.utils.options import GraphOrdering

    if jax.default_backend() != "gpu":
        raise ImportError("its kernel needs a CUDA device.")
    terms = [(c, (r, d, y, p)) for r, row in enumerate(problem.rows) for p, y, d, c in row]
    dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    values, places = np.array([c for c, _ in terms], dtype), np.array([place for _, place in terms], np.int32)
    params = CUDAConvolutionParams(num_out=len(problem.rows), num_scalars=problem.weights.shape[1])
    order, ends = GraphOrdering.parse(ordering), (problem.senders, problem.receivers)
    # Sorted by sender, an edge stands where its reverse stands when they are sorted by receiver.
    flip = ordering == "SENDER"
    senders, receivers = (jnp.asarray(x, jnp.int32) for x in (ends[::-1] if flip else ends))
    back = np.searchsorted(problem.slot, problem.reverse[problem.slot]) if flip else np.arange(len(problem.slot))

    def summed(features: jax.Array, weights: jax.Array, harmonics: jax.Array) -> jax.Array:
        with jax.ensure_compile_time_eval():
            coef = Coef4D(jnp.asarray(values), jnp.asarray(places), val_dtype=dtype, idx_dtype="int32").pack_jax()
        return convolution(coef, features, harmonics, weights, senders, receivers, params, order, problem.parity if flip else None)

    return Contestant(summed, lambda x: x[back], lambda x: x[back])


def cuequivariance(problem: Problem) -> Contestant:
    import cuequivariance as cue
    import cuequivariance_jax as cuex

    channels, nodes = problem.features.shape[2], len(problem.features)
    product = cue.SegmentedTensorProduct.from_subscripts("u,,u,u")
    for operand, count in enumerate((problem.weights.shape[1], problem.harmonics.shape[1], problem.features.shape[1], len(problem.rows))):
        for _ in range(count):
            product.add_segment(operand, () if operand == 1 else (channels,))
    for r, row in enumerate(problem.rows):
        for p, y, d, c in row:
            product.add_path(p, y, d, r, c=c)
    polynomial = cue.SegmentedPolynomial.eval_last_operand(product)
    senders, receivers = jnp.asarray(problem.senders, jnp.int32), jnp.asarray(problem.receivers, jnp.int32)
    method = "uniform_1d" if jax.default_backend() == "gpu" else "naive"

    def summed(features: jax.Array, weights: jax.Array, harmonics: jax.Array) -> jax.Array:
        inputs = [weights.reshape(len(senders), -1), harmonics, features.reshape(nodes, -1)]
        out = jax.ShapeDtypeStruct((nodes, len(problem.rows) * channels), features.dtype)
        (found,) = cuex.segmented_polynomial(polynomial, inputs, [out], [None, None, senders, receivers], method=method)
        return found.reshape(nodes, -1, channels)

    return Contestant(summed, lambda x: x, lambda x: x)


MAKERS: dict[str, Callable[[Problem], Contestant]] = {
    "kernels": partial(ours, True),
    "plain": partial(ours, False),
    "e3j": partial(e3j, "SENDER"),
    "e3j by receiver": partial(e3j, "RECEIVER"),
    "cuequivariance": cuequivariance,
}

if __name__ == "__main__":
    main()
