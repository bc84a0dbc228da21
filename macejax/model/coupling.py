"""Coupling coefficients: tensor-product paths, and the polynomials of the symmetric contraction.

The product basis of MACE (Batatia et al., NeurIPS 2022, eq. 10) contracts nu copies of one feature with generalised Clebsch-Gordan
coefficients. The copies are equal, so each path is a homogeneous polynomial of degree nu; it is built as one, monomial by monomial, and
the dense tensor with its (l_max + 1)^(2 nu) entries per path never exists.

Two bases span the same polynomials. `full` has one path per coupling tree, in the order and with the signs of mace-torch, so that its
weights fit column by column. `reduced` is an orthonormal basis of their span (rank 8, 12, 14 instead of 23, 51, 65 for l_max 3, degree 3,
L = 0, 1, 2); `projection` folds weights of the former onto the latter exactly. Computations always use the reduced one.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import e3nn_jax as e3nn
import numpy as np

from macejax.ops.contraction import monomials
from macejax.ops.convolution import Path

# Degrees l1 l2 l3, one hexadecimal digit each, for which the Wigner 3j symbol of e3nn 0.4.4 (which every mace-torch model uses) has the
# opposite sign of e3nn-jax's. All have odd l1 + l2 + l3; complete for degrees up to 11.
_OPPOSITE_SIGN = frozenset(
    """122 133 144 155 166 177 188 199 1aa 1bb 212 221 313 331 346 357 364 368 375 379 386 38a 397 39b 3a8 3b9 414 436 441 445 454 456 463
    465 467 476 478 487 489 498 49a 4a9 4ab 4ba 515 537 544 546 551 555 564 566 56a 573 577 57b 588 599 5a6 5aa 5b7 5bb 616 634 638 643
    645 647 654 656 65a 661 665 669 674 67a 683 68b 696 6a5 6a7 6b8 717 735 739 746 748 753 757 75b 764 76a 771 775 779 784 78a 793 797
    79b 7a6 7a8 7b5 7b9 818 836 83a 847 849 858 863 86b 874 87a 881 885 889 894 898 89a 8a3 8a7 8a9 8ab 8b6 8ba 919 937 93b 948 94a 959
    966 973 977 97b 984 988 98a 991 995 999 9a4 9a8 9aa 9b3 9b7 9bb a1a a38 a49 a4b a56 a5a a65 a67 a76 a78 a83 a87 a89 a8b a94 a98 a9a
    aa1 aa5 aa9 ab4 ab8 b1b b39 b4a b57 b5b b68 b75 b79 b86 b8a b93 b97 b9b ba4 ba8 bb1 bb5 bb9""".split()
)
_MAX_DEGREE = 11
# Singular paths of a homogeneous polynomial basis are zero to rounding; the smallest independent remainder met is about 0.05.
_RANK_TOLERANCE = 1e-8


@functools.cache
def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real Wigner 3j symbol [2 l1 + 1, 2 l2 + 1, 2 l3 + 1], Frobenius norm 1, with the signs of e3nn 0.4.4."""
    if max(l1, l2, l3) > _MAX_DEGREE:
        raise ValueError(f"Wigner 3j symbols are tabulated to degree {_MAX_DEGREE}, not ({l1}, {l2}, {l3}): lower l_max or correlation.")
    symbol = np.asarray(e3nn.clebsch_gordan(l1, l2, l3), np.float64)
    return -symbol if f"{l1:x}{l2:x}{l3:x}" in _OPPOSITE_SIGN else symbol


def irrep_order(irrep: str) -> tuple[int, int]:
    """Key by which e3nn 0.4.4, and every weight of mace-torch, sorts irreps: by degree, odd parity before even."""
    return int(irrep[:-1]), 1 if irrep[-1] == "e" else -1


@functools.cache
def convolution_paths(sent: tuple[str, ...], harmonics: tuple[str, ...], targets: tuple[str, ...]) -> tuple[Path, ...]:
    """Paths of neighbour's feature x harmonic -> targets, in mace-torch's order of weights: sorted by output irrep, stably.

    The factor sqrt(2 l_out + 1) makes each output component of unit variance (e3nn's `component` normalisation).

    Args:
      sent, harmonics: irreps of the two factors, in their order.
      targets: irreps that are kept.
    """
    paths = []
    for node, harmonic in itertools.product(map(e3nn.Irrep, sent), map(e3nn.Irrep, harmonics)):
        for out in sorted(node * harmonic, key=lambda ir: ir.l):
            if str(out) in targets:
                symbol = wigner_3j(node.l, harmonic.l, out.l) * np.sqrt(out.dim)
                paths.append(Path(str(node), str(harmonic), str(out), symbol.transpose(2, 1, 0)))
    return tuple(sorted(paths, key=lambda path: irrep_order(path.out)))


class Polynomials(NamedTuple):
    """Polynomials of one degree nu and one output irrep."""

    reduced: np.ndarray  # [R, 2L+1, number of monomials of degree nu], orthonormal in tensor space, times sqrt(2L+1)
    projection: np.ndarray  # [P_full, R]: full path p = sum_r projection[p, r] reduced[r]


@functools.cache
def polynomials(message: tuple[str, ...], degree: int, out: str) -> Polynomials:
    """Symmetric couplings of `degree` copies of a message to the irrep `out`.

    Degree 4 couples through intermediates of natural parity alone, as mace-torch does. Where nothing couples to `out`, mace-torch keeps one
    path that is zero, and so does the full basis here.

    Args:
      message: its irreps, in their order.
    """
    dim = irreps_dim(message)
    paths = _fold(message, degree, natural_only=degree == 4, last=out)
    none = np.zeros((1, 2 * int(out[:-1]) + 1, len(monomials(dim, degree))))
    full = np.stack(paths[out]) if out in paths else none  # [P, 2L+1, monomials]
    # In tensor space a monomial's coefficient is spread over its distinct permutations.
    scale = 1 / np.sqrt(_permutations(monomials(dim, degree)))
    vectors = (full * scale).reshape(len(full), -1)
    basis: list[np.ndarray] = []
    for vector in vectors:  # Gram-Schmidt in path order, twice for rounding: unlike an SVD it has no free rotation
        rest = vector
        for _ in range(2):
            for b in basis:
                rest = rest - b * (b @ rest)
        norm = np.linalg.norm(rest)
        if norm > _RANK_TOLERANCE:
            basis.append(rest / norm)
    orthonormal = np.stack(basis) if basis else np.zeros((0, vectors.shape[1]))
    root = np.sqrt(full.shape[1])
    reduced = orthonormal.reshape((len(basis),) + full.shape[1:]) / scale * root
    return Polynomials(reduced, vectors @ orthonormal.T / root)


def irreps_dim(irreps: tuple[str, ...]) -> int:
    """Number of components D."""
    return sum(2 * int(irrep[:-1]) + 1 for irrep in irreps)


def _fold(message: tuple[str, ...], degree: int, natural_only: bool, last: str | None = None) -> dict[str, list[np.ndarray]]:
    """Left fold of Clebsch-Gordan products: irrep -> coefficients [2l+1, monomials] of its paths; irreps by `irrep_order`."""
    inputs, dim = [e3nn.Irrep(irrep) for irrep in message], irreps_dim(message)
    starts = np.cumsum([0] + [ir.dim for ir in inputs]).tolist()
    paths: dict[str, list[np.ndarray]] = {}
    if degree == 1:
        eye = np.eye(dim)
        for start, ir in zip(starts, inputs, strict=False):
            if last in (None, str(ir)):
                paths.setdefault(str(ir), []).append(eye[start : start + ir.dim])
        return dict(sorted(paths.items(), key=lambda item: irrep_order(item[0])))
    product = _multiplication_table(dim, degree - 1)  # [monomials of degree - 1, dim] -> monomial of degree
    count = len(monomials(dim, degree))
    for name, lefts in _fold(message, degree - 1, natural_only).items():
        ir_left = e3nn.Irrep(name)
        for left in lefts:
            for start, ir in zip(starts, inputs, strict=False):
                for out in sorted(ir_left * ir, key=lambda x: x.l):
                    if last not in (None, str(out)) or (natural_only and out.p != (-1) ** out.l):
                        continue
                    coupled = np.einsum("cab,am->cbm", wigner_3j(out.l, ir_left.l, ir.l) * np.sqrt(out.dim), left)
                    coefficients = np.zeros((out.dim, count))
                    for b in range(ir.dim):  # multiplication by one variable is injective on monomials, so += is safe
                        coefficients[:, product[:, start + b]] += coupled[:, b]
                    paths.setdefault(str(out), []).append(coefficients)
    return dict(sorted(paths.items(), key=lambda item: irrep_order(item[0])))


@functools.cache
def _multiplication_table(num_variables: int, degree: int) -> np.ndarray:
    """Index of monomial m times variable i among the monomials of the next degree, [count, num_variables]."""
    position = {tuple(m): k for k, m in enumerate(monomials(num_variables, degree + 1).tolist())}
    return np.array([[position[tuple(sorted((*m, i)))] for i in range(num_variables)] for m in monomials(num_variables, degree).tolist()])


def _permutations(index: np.ndarray) -> np.ndarray:
    """Number of distinct orderings of each row of sorted indices."""
    degree = index.shape[1]
    factorial = np.cumprod([1, *range(1, degree + 1)])
    orderings = np.full(len(index), float(factorial[degree]))
    run = np.ones(len(index), np.int64)
    for a in range(1, degree):
        run = np.where(index[:, a] == index[:, a - 1], run + 1, 1)
        orderings /= run  # a run of length r divides by 1 * 2 * ... * r
    return orderings
