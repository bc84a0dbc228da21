"""Rows 7, 8, 10, 11, 12 and 14: an atom's energy depends on its surroundings and on nothing else in the batch, the padding or the list."""

from __future__ import annotations

import itertools

import numpy as np

from macejax.data.batch import batch
from macejax.data.structure import Structure
from macejax.testing import limits
from macejax.testing.errors import Case, agree, compare, energy_per_atom, energy_relative, force_relative, largest, strain_relative
from macejax.testing.evaluate import evaluate, evaluate_batch, exact_capacity, expected, graphs_of, pack, select
from macejax.testing.report import Check, worst_of
from macejax.testing.structures import dense_crystal
from macejax.testing.subject import Result, Subject
from macejax.testing.transform import joined, repeated

FEW = 6  # structures that share a batch
FEW_ATOMS = 8
GROWTH = (1.0, 1.3)  # capacities, in units of what is needed; more than 4 times as much is that of `pack`
SKINS = (0.0, 0.5, 2.0)  # Angstrom
SUPERCELLS = ((1, 1, 1), (2, 2, 2), (3, 2, 1))
LARGEST_SUPERCELL = 64  # atoms
LARGEST_WITH_SKIN = 64
GAP = 40.0  # Angstrom


def batching(subject: Subject) -> list[Check]:
    """Row 7: alone, in company, anywhere in a batch and at any capacity, a structure has the same energy and forces."""
    structures = few(subject)
    names, graphs = list(structures), graphs_of(subject, structures.values())
    known = expected(subject, structures)
    found: list[tuple[str, Result, Result]] = []
    capacities = [exact_capacity(subject, graphs, growth) for growth in GROWTH]
    capacities[1] = capacities[1]._replace(species=len(np.unique(np.concatenate([graph.species for graph in graphs]))))
    for capacity in [*capacities, max((shape for _, shape in pack(subject, graphs)), key=lambda shape: shape.slots)]:
        arrangements = [[i] for i in range(len(graphs))] + [list(np.roll(np.arange(len(graphs)), k)) for k in range(len(graphs))]
        for order in arrangements:
            results = evaluate_batch(subject, batch([graphs[i] for i in order], capacity, dtype=subject.dtype))
            found += [(names[i], result, known[names[i]]) for i, result in zip(order, results, strict=True)]
    return compare(subject, 7, "in any batch, place and capacity", limits.BATCHING, found)


def leakage(subject: Subject) -> list[Check]:
    """Row 8: dE_k/dr of the atoms of other structures, and every force on padding, are exactly 0."""
    structures = few(subject)
    names, graphs = list(structures), graphs_of(subject, structures.values())
    graph = batch(graphs, exact_capacity(subject, graphs, GROWTH[1]), dtype=subject.dtype)
    jacobian = np.asarray(subject.compiled.foreign(subject.params, graph))  # [G, N, 3]
    foreign = (graph.nodes["graph"] != np.arange(len(graph.n_node))[:, None]) | ~graph.nodes["mask"]
    prediction, *_ = subject.compiled.predict(subject.params, graph)
    padding = ~graph.nodes["mask"]
    idle = ~graph.globals["mask"]
    limit = subject.limit(limits.LEAKAGE)
    leaks = [(largest(jacobian[k][foreign[k]]), name) for k, name in enumerate(names)]
    padded = [(largest(np.asarray(x)[padding]), "padding") for x in (prediction.forces, prediction.node_energy)]
    padded += [(largest(np.asarray(x)[idle]), "padding") for x in (prediction.energy, prediction.strain_derivative)]
    return [
        worst_of(8, "gradient on atoms of other structures", limit, leaks),
        worst_of(8, "forces and energies of padding", limit, padded),
    ]


def list_independence(subject: Subject) -> list[Check]:
    """Row 10: edges longer than the cutoff change nothing. In float32 the list without a skin is also one of float32."""
    structures = select(subject, lambda structure: len(structure.numbers) <= LARGEST_WITH_SKIN)
    plain = evaluate(subject, structures.values())
    cases = [Case(name, structure, result) for (name, structure), result in zip(structures.items(), plain, strict=True)]
    return [
        check
        for skin in SKINS
        for check in agree(subject, 10, f"with a skin of {skin} A", limits.LIST_INDEPENDENCE, cases, cutoff=subject.cutoff + skin)
    ]


def extensivity(subject: Subject) -> list[Check]:
    """Row 11: supercells have the energy per atom, the forces and the stress of the cell."""
    structures = select(subject, lambda structure: bool(structure.pbc.any()) and 4 * len(structure.numbers) <= LARGEST_SUPERCELL)
    results = expected(subject, structures)
    cases = []
    for name, structure in structures.items():
        for times in SUPERCELLS:
            supercell = repeated(structure, times)
            if len(supercell.numbers) <= LARGEST_SUPERCELL:
                cases.append(Case(name, supercell, _copies(results[name], len(supercell.numbers) // len(structure.numbers))))
    return _extensive(subject, 11, "of supercells", cases, limits.EXTENSIVITY_ENERGY, limits.EXTENSIVITY_FORCE)


def fragments(subject: Subject) -> list[Check]:
    """Row 12: two molecules out of each other's reach have the sum of their energies, and their own forces."""
    structures = select(subject, lambda structure: not structure.pbc.any() and len(structure.numbers) <= FEW_ATOMS)
    chosen = dict(itertools.islice(structures.items(), FEW))
    results = expected(subject, chosen)
    cases = []
    for first, second in itertools.combinations_with_replacement(chosen, 2):
        both = joined(chosen[first], chosen[second], max(GAP, subject.reach + 1.0))
        a, b = results[first], results[second]
        total = Result(
            energy=a.energy + b.energy,
            node_energy=np.concatenate([a.node_energy, b.node_energy]),
            forces=np.concatenate([a.forces, b.forces]),
            strain_derivative=a.strain_derivative + b.strain_derivative,
            stress=a.stress,
            force_resolution=np.concatenate([a.force_resolution, b.force_resolution]),
            strain_resolution=a.strain_resolution + b.strain_resolution,
        )
        cases.append(Case(f"{first} + {second}", both, total))
    return agree(subject, 12, "of separated fragments", limits.FRAGMENTS, cases)


def small_cell(subject: Subject) -> list[Check]:
    """Row 14: a one-atom cell of a quarter of the cutoff equals its explicit 5x5x5 supercell."""
    crystal = dense_crystal(subject.elements[0], subject.cutoff)
    (known,) = evaluate(subject, [crystal], dtype=np.float64)
    cases = [Case(crystal.source, repeated(crystal, times), _copies(known, int(np.prod(times)))) for times in ((1, 1, 1), (5, 5, 5))]
    return _extensive(subject, 14, "of a cell smaller than the cutoff", cases, limits.SMALL_CELL, limits.SMALL_CELL)


def few(subject: Subject) -> dict[str, Structure]:
    """A few small structures with neighbours, but not many, for rows that compile shapes of their own, and put one beside another: where
    no two of them have neighbours, two default ones join.
    """

    def small(structure: Structure) -> bool:
        return len(structure.numbers) <= FEW_ATOMS

    def least_connected(structures: dict[str, Structure], count: int) -> dict[str, Structure]:
        names = sorted(structures, key=lambda name: (degree(structures[name]) == 0, degree(structures[name])))
        return {name: structures[name] for name in names[:count]}

    def degree(structure: Structure) -> int:
        return graphs_of(subject, [structure])[0].max_degree

    chosen = least_connected(select(subject, small), FEW)
    if sum(degree(structure) > 0 for structure in chosen.values()) < 2:
        chosen |= least_connected({name: structure for name, structure in subject.defaults.items() if small(structure)}, 2)
    return chosen


def _copies(result: Result, count: int) -> Result:
    return Result(
        energy=count * result.energy,
        node_energy=np.tile(result.node_energy, count),
        forces=np.tile(result.forces, (count, 1)),
        strain_derivative=count * result.strain_derivative,
        stress=result.stress,
        force_resolution=np.tile(result.force_resolution, count),
        strain_resolution=count * result.strain_resolution,
    )


def _extensive(
    subject: Subject, row: int, promise: str, cases: list[Case], energy_limit: limits.Limit, force_limit: limits.Limit
) -> list[Check]:
    results = evaluate(subject, [case.structure for case in cases])
    found = list(zip(cases, results, strict=True))
    quantities = [
        ("energy per atom", energy_limit, energy_per_atom if subject.is_double else energy_relative),
        ("forces", force_limit, force_relative),
        ("stress", force_limit, strain_relative),
    ]
    return [
        worst_of(row, f"{quantity} {promise}", subject.limit(limit), [(error(result, case.expected), case.name) for case, result in found])
        for quantity, limit, error in quantities
    ]
