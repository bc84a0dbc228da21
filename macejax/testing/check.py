"""check_potential: the contract that every potential must keep, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from macejax.data.structure import Structure
from macejax.potential.predict import SiteEnergy
from macejax.testing import cutoff, derivatives, edge_cases, gradients, locality, singular, symmetry
from macejax.testing.errors import rms
from macejax.testing.evaluate import expected
from macejax.testing.report import Check, Report, require
from macejax.testing.structures import default_structures
from macejax.testing.subject import Subject, make_subject, rescaled
from macejax.testing.transform import bare

ROWS: dict[int, Callable[[Subject], list[Check]]] = {
    1: derivatives.forces,
    2: derivatives.stress,
    3: derivatives.second_derivatives,
    4: symmetry.rotation,
    5: symmetry.permutation,
    6: symmetry.lattice_translation,
    7: locality.batching,
    8: locality.leakage,
    9: cutoff.smoothness,
    10: locality.list_independence,
    11: locality.extensivity,
    12: locality.fragments,
    13: edge_cases.isolated_atoms,
    14: locality.small_cell,
    15: symmetry.equivalent_cells,
    16: edge_cases.open_directions,
    17: edge_cases.nothing,
    18: singular.coincident_atoms,
    19: singular.not_a_number,
    20: edge_cases.unknown_species,
    21: gradients.loss_gradients,
}
_NO_FORCES = 1e-6  # eV/Angstrom, rms
FLOAT64_ONLY = (3, 20)  # second derivatives are compared with differences; the refusal of an element has no dtype


def check_potential(
    site_energy: SiteEnergy,
    params: Any,
    config: Any,
    *,
    structures: Mapping[str, Structure] | Sequence[Structure] | None = None,
    dtype: str = "float64",
    reference_params: Any = None,
    rows: Iterable[int] | None = None,
    features: Callable[..., Sequence[jax.Array]] | None = None,
    feature_irreps: Sequence[str] = (),
    atom_energies: Mapping[int, float] | None = None,
    raise_on_failure: bool = False,
    compiler_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Report:
    """Hold a potential to the promises that energies, forces and stresses of a simulation rest on.

    In float64 every promise is tested by itself. In float32 the results are compared with those of float64 with the same weights, since a
    comparison of float32 with itself hides what both lose. Energies are multiplied by a power of two (`report.factor`) where the rms
    force over all structures is less than 1 eV/Angstrom, so that the thresholds, which are absolute in part, bind a small potential too.
    Errors of forces and stress count beyond 4 epsilon times the sum of the magnitudes of the forces of pairs, epsilon being that of the
    dtype: in a crystal these cancel, and no arithmetic knows better what they leave. A small model takes about half
    a minute, most of it compilation.

    | row | promise |
    |---|---|
    | 1, 2, 3 | forces, stress and Hessian are derivatives of the energy |
    | 4, 5, 6 | rotation, inversion, translation; order of atoms, edges, structures; lattice translations of single atoms |
    | 7, 8 | batching and padding change nothing, and nothing leaks from structure to structure |
    | 9, 10 | smooth at the cutoff; edges beyond the cutoff change nothing |
    | 11, 12 | supercells and separated fragments are extensive |
    | 13 | an isolated atom feels nothing, and has the energy it should |
    | 14, 15, 16 | cells smaller than the cutoff, equivalent cells, open directions |
    | 17, 18, 19 | no edges, no atoms; coincident atoms; NaN in one structure of a batch |
    | 20 | unknown elements are refused by name |
    | 21 | parameter gradients of a force loss are finite and right |

    Args:
      site_energy: `(params, vectors [N, M, 3], graph) -> node energies [N]` (eV), for a Flax module its `apply`.
      params: its parameters; cast to `dtype`.
      config: anything with `elements` (ascending atomic numbers), `cutoff` (Angstrom) and, for a potential that passes messages,
        `num_interactions`; where `so3` is true, row 4 leaves inversion and reflections out. A ModelConfig has them.
      structures: what to test it on, by name or in a list; their labels play no role. Default: small ones made of `elements`. A row that
        none of them suits takes default ones.
      dtype: "float64" or "float32", of the computation under test.
      reference_params: parameters of the float64 results; default `params`, rounded to `dtype`.
      rows: the rows to test; default all that the dtype has.
      features: `(params, vectors, graph) -> hidden features [N, D, K] of each layer`, tested in row 4 if given.
      feature_irreps: irreps of those D components, such as "0e+1o", one string per layer.
      atom_energies: energy (eV) that an isolated atom must have, by atomic number, tested in row 13 if given.
      raise_on_failure: raise instead of returning a report with failures.
      compiler_options: for jax.jit. Most of the time goes into compilation; options that make XLA hurry may halve it.
      seed: of rotations, permutations and displacements.

    Returns:
      A Report. `report.passed` is the verdict, `print(report)` the table.

    Raises:
      AssertionError: a promise is broken and raise_on_failure is set; names row, structure, value and threshold.
      DataError: a structure has an element that is not in `config.elements`.
      ValueError: an unknown row or dtype, rows that the dtype does not have, or no structure in `structures`.
    """
    chosen = _rows(rows, dtype)
    given = None if structures is None else _named(structures)
    made = default_structures(config.elements, config.cutoff)
    defaults = made if given is None else {f"default {name}": structure for name, structure in made.items()}
    with jax.enable_x64(True):
        subject = make_subject(
            site_energy,
            params,
            config,
            structures=defaults if given is None else given,
            defaults=defaults,
            dtype=dtype,
            reference_params=reference_params,
            features=features,
            feature_irreps=feature_irreps,
            atom_energies=atom_energies,
            compiler_options=compiler_options,
            seed=seed,
        )
        factor = _factor(subject)
        subject = rescaled(subject, factor)
        report = Report(dtype, factor, tuple(check for row in chosen for check in ROWS[row](subject)))
    if raise_on_failure:
        require(report)
    return report


def _rows(rows: Iterable[int] | None, dtype: str) -> list[int]:
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype must be 'float64' or 'float32', not {dtype!r}.")
    there = [row for row in ROWS if dtype == "float64" or row not in FLOAT64_ONLY]
    chosen = there if rows is None else sorted(set(rows))
    if unknown := [row for row in chosen if row not in there]:
        raise ValueError(f"there are no rows {unknown} in {dtype}; rows are {there}.")
    return chosen


def _factor(subject: Subject) -> float:
    """The power of two that brings the rms force over all structures to 1 eV/Angstrom or just above; 1 where it is more than that.

    Absolute thresholds would mean nothing to a potential in other units, or with random parameters, whose forces are small. Where they
    are next to nothing, as in a perfect crystal, whose forces are rounding, the default structures say how large forces are.
    """

    def size_in(structures: Mapping[str, Structure]) -> float:
        return rms(np.concatenate([result.forces for result in expected(subject, structures).values()]))

    size = size_in(subject.structures)
    if size < _NO_FORCES:
        size = max(size, size_in(subject.defaults))
    return float(2.0 ** np.ceil(-np.log2(size))) if 0 < size < 1 else 1.0


def _named(structures: Mapping[str, Structure] | Sequence[Structure]) -> dict[str, Structure]:
    if not isinstance(structures, Mapping):
        structures = {f"{i} {structure.source}".strip(): structure for i, structure in enumerate(structures)}
    if not structures:
        raise ValueError("structures holds no structure; leave it out to use default ones.")
    return {name: bare(structure, name) for name, structure in structures.items()}
