"""Rows 13, 16, 17 and 20: isolated atoms, open directions, nothing at all, and elements that the potential does not know."""

from __future__ import annotations

import jax
import numpy as np

from macejax.data.batch import batch
from macejax.data.graph import build_graph
from macejax.data.species import SYMBOLS
from macejax.data.structure import DataError, Structure, volume
from macejax.testing import limits
from macejax.testing.derivatives import strain_errors
from macejax.testing.errors import Case, agree, largest
from macejax.testing.evaluate import evaluate, expected, graphs_of, pack, select
from macejax.testing.gradients import count_not_finite, gradient, gradient_capacity
from macejax.testing.report import Check, worst_of
from macejax.testing.subject import Subject
from macejax.testing.transform import displaced

TRANSLATIONS = 3
STRANGERS = 3  # unknown elements that are tried
NO_ELEMENTS = (0, -1, 119)


def isolated_atoms(subject: Subject) -> list[Check]:
    """Row 13: an atom alone, in the open or in a cell larger than the reach, feels no force and no stress, and has the energy it should."""
    cell = (2 * subject.reach + 1.0) * np.eye(3)
    atoms = []
    for number in subject.elements:
        open_atom = Structure(numbers=np.array([number]), positions=np.zeros((1, 3)), source=f"atom {number}")
        atoms += [
            (number, open_atom),
            (number, open_atom._replace(cell=cell, pbc=np.ones(3, dtype=bool), source=f"atom {number} in a cell")),
        ]
    results = evaluate(subject, [structure for _, structure in atoms])
    found = [(number, structure.source, result) for (number, structure), result in zip(atoms, results, strict=True)]
    checks = [
        worst_of(13, "forces on an isolated atom", subject.limit(limits.ATOM_DERIVATIVES), [(largest(r.forces), n) for _, n, r in found]),
        worst_of(
            13,
            "dE/d(strain) of an isolated atom",
            subject.limit(limits.ATOM_DERIVATIVES),
            [(largest(r.strain_derivative), n) for _, n, r in found],
        ),
        worst_of(
            13,
            "energies of isolated atoms that are not finite",
            subject.limit(limits.VIOLATIONS),
            [(not np.isfinite(r.energy), n) for _, n, r in found],
        ),
    ]
    if subject.atom_energies is None:
        return checks
    wanted = subject.atom_energies
    errors = [(_relative(abs(result.energy - wanted[number]), abs(wanted[number])), name) for number, name, result in found]
    return [*checks, worst_of(13, "energy of an isolated atom, relative", subject.limit(limits.ATOM_ENERGY), errors)]


def open_directions(subject: Subject) -> list[Check]:
    """Row 16: slabs, wires and molecules have dE/d(strain) anywhere, and stress just where the user's own cell has a volume."""
    rng = subject.rng(16)
    structures = select(subject, lambda structure: not structure.pbc.all())
    results = expected(subject, structures)
    working = dict(zip(structures, evaluate(subject, structures.values()), strict=True))
    errors = []
    for name, structure in structures.items():
        result, size = working[name], volume(structure.cell)
        if size == 0:
            errors.append((0.0 if np.isnan(result.stress).all() else np.inf, name))
        else:
            difference = result.stress * abs(np.linalg.det(structure.cell)) - results[name].strain_derivative
            errors.append((largest(difference) / max(largest(results[name].strain_derivative), limits.UNIT), name))
    checks = [worst_of(16, "stress x the user's own volume is dE/d(strain), relative", subject.limit(limits.OPEN_STRESS), errors)]
    if subject.is_double:
        checks.append(worst_of(16, "stress is dE/d(strain) / V, in eV/A^3", limits.STRESS_FD.float64, strain_errors(subject, structures)))
    cases = [
        Case(name, displaced(structure, rng.uniform(-30, 30, 3)), results[name])
        for name, structure in structures.items()
        for _ in range(TRANSLATIONS)
    ]
    return checks + agree(subject, 16, "of open structures translated", limits.OPEN_TRANSLATION, cases)


def nothing(subject: Subject) -> list[Check]:
    """Row 17: one atom, atoms without an edge and a batch of padding give finite values, gradients and the dtype that was put in."""
    number = subject.elements[0]
    atom = Structure(numbers=np.array([number]), positions=np.zeros((1, 3)))
    apart = Structure(numbers=np.array([number, number]), positions=np.array([[0.0, 0, 0], [2 * subject.cutoff, 0, 0]]))
    batches = {"padding": [], "one atom": [atom], "two atoms without an edge": [apart], "an atom beside them": [apart, atom]}
    ((_, shape),) = pack(subject, graphs_of(subject, [atom]))
    capacity = gradient_capacity(subject)
    finite, dtypes = [], []
    for name, structures in batches.items():
        graphs = graphs_of(subject, structures)
        prediction, *_ = subject.compiled.predict(subject.params, batch(graphs, shape, dtype=subject.dtype))
        leaves = [*prediction[:4], *jax.tree.leaves(gradient(subject, graphs, capacity))]
        finite.append((count_not_finite(leaves), name))
        dtypes.append((sum(leaf.dtype != subject.dtype for leaf in leaves), name))
    none = subject.limit(limits.VIOLATIONS)
    return [
        worst_of(17, "values and gradients that are not finite, without edges", none, finite),
        worst_of(17, "results of another dtype than the input", none, dtypes),
    ]


def unknown_species(subject: Subject) -> list[Check]:
    """Row 20: an element that the potential does not know, or no element at all, is an error that names it."""
    strangers = [number for number in range(1, 119) if number not in subject.elements][:STRANGERS]
    errors = []
    for number in [*strangers, *NO_ELEMENTS]:
        name = SYMBOLS[number] if number in strangers else str(number)
        structure = Structure(numbers=np.array([subject.elements[0], number]), positions=np.array([[0.0, 0, 0], [1.0, 0, 0]]))
        errors.append((not _refused(subject, structure, name), f"atomic number {number}"))
    return [worst_of(20, "elements that are unknown and not refused by name", limits.VIOLATIONS.float64, errors)]


def _refused(subject: Subject, structure: Structure, name: str) -> bool:
    try:
        build_graph(structure, subject.elements, subject.cutoff)
    except DataError as error:
        return name in str(error).replace(",", " ").replace(";", " ").split()
    return False


def _relative(error: float, size: float) -> float:
    """error / size; what should be 0 must be just that."""
    return error / size if size else np.inf if error else 0.0
