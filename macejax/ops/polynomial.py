"""Sparse polynomials of the rows of arrays, lane by lane: a primitive whose derivatives of every order are sparse polynomials again.

A polynomial takes arrays [..., V_a, K] and gives arrays [..., Q_b, K]: every row of a result is a sum of terms, each a coefficient times
rows of the arguments, which are multiplied element by element. It is written out as straight-line code, which XLA fuses into one loop over
the lanes with nothing in memory but arguments and results. Derivatives are taken here, term by term, because those that autodiff makes of
such code share partial results and fuse badly: ten times slower, and slower to compile.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxlib.mlir.dialects import stablehlo

Factor = tuple[int, int]  # (argument, row)
Term = tuple[float, tuple[Factor, ...]]  # coefficient, factors


class Table:
    """The terms of every row of every result.

    Args:
      results: for each result, for each of its rows, terms (coefficient, factors). Terms with the same factors are added up.
    """

    def __init__(self, results: Iterable[Iterable[Iterable[Term]]]) -> None:
        self.results = tuple(tuple(_collect(terms) for terms in rows) for rows in results)
        self.arguments = frozenset(argument for _, _, _, factors in self._terms() for argument, _ in factors)
        self._hash = hash(self.results)
        self._derived: dict[tuple[Any, ...], Table] = {}

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Table) and self._hash == other._hash and self.results == other.results)

    def __repr__(self) -> str:
        return f"Table({[len(rows) for rows in self.results]} rows, {sum(1 for _ in self._terms())} terms)"

    def derivative(self, argument: int, tangent: int) -> Table:
        """The derivative with respect to an argument, in the direction of a further argument, `tangent`."""
        return self._remember(("derivative", argument, tangent), self._derivative, argument, tangent)

    def transpose(self, argument: int, num_rows: int, cotangents: tuple[int | None, ...]) -> Table:
        """The transpose with respect to an argument of which every term has one factor.

        Args:
          argument: that argument; the only result is its cotangent.
          num_rows: rows of that argument.
          cotangents: for every result, which further argument its cotangent is; None where it is zero.
        """
        return self._remember(("transpose", argument, num_rows, cotangents), self._transpose, argument, num_rows, cotangents)

    def renumber(self, arguments: tuple[int, ...]) -> Table:
        """The same as a function of `arguments` alone, in this order."""
        return self._remember(("renumber", arguments), self._renumber, arguments)

    def _derivative(self, argument: int, tangent: int) -> Table:
        results: list[list[list[Term]]] = [[[] for _ in rows] for rows in self.results]
        for result, row, coefficient, factors in self._terms():
            for k, (which, source) in enumerate(factors):
                if which == argument:
                    results[result][row].append((coefficient, (*factors[:k], (tangent, source), *factors[k + 1 :])))
        return Table(results)

    def _transpose(self, argument: int, num_rows: int, cotangents: tuple[int | None, ...]) -> Table:
        transposed: list[list[Term]] = [[] for _ in range(num_rows)]
        for result, row, coefficient, factors in self._terms():
            cotangent = cotangents[result]
            if cotangent is not None:
                (target,) = (source for which, source in factors if which == argument)
                rest = (factor for factor in factors if factor[0] != argument)
                transposed[target].append((coefficient, (*rest, (cotangent, row))))
        return Table([transposed])

    def _renumber(self, arguments: tuple[int, ...]) -> Table:
        place = {argument: k for k, argument in enumerate(arguments)}
        return Table(
            [[(c, tuple((place[which], row) for which, row in factors)) for c, factors in terms] for terms in rows] for rows in self.results
        )

    def _remember(self, key: tuple[Any, ...], make: Callable[..., Table], *arguments: Any) -> Table:
        if key not in self._derived:
            self._derived[key] = make(*arguments)
        return self._derived[key]

    def _terms(self) -> Iterator[tuple[int, int, float, tuple[Factor, ...]]]:
        for result, rows in enumerate(self.results):
            for row, terms in enumerate(rows):
                for coefficient, factors in terms:
                    yield result, row, coefficient, factors


def polynomial(table: Table, *arguments: jax.Array) -> tuple[jax.Array, ...]:
    """Evaluate a table.

    Args:
      table: every argument occurs in it.
      arguments: [..., V_a, K], with the same leading axes and K.

    Returns:
      for each result of the table, [..., Q_b, K].
    """
    return tuple(_polynomial.bind(*arguments, table=table))


def _bind(table: Table, arguments: Sequence[jax.Array]) -> list[jax.Array]:
    """Bind with the arguments that occur, for what is passed is kept for the backward pass."""
    used = tuple(sorted(table.arguments))
    if not used:
        shape, dtype = arguments[0].shape, arguments[0].dtype
        return [jnp.zeros((*shape[:-2], len(rows), shape[-1]), dtype) for rows in table.results]
    return _polynomial.bind(*(arguments[k] for k in used), table=table if len(used) == len(arguments) else table.renumber(used))


def _collect(terms: Iterable[Term]) -> tuple[Term, ...]:
    total: dict[tuple[Factor, ...], float] = {}
    for coefficient, factors in terms:
        key = tuple(sorted(factors))
        total[key] = total.get(key, 0.0) + coefficient
    return tuple((coefficient, factors) for factors, coefficient in total.items())


def _lower(context: mlir.LoweringRuleContext, *arguments: mlir.ir.Value, table: Table) -> list[mlir.ir.Value]:
    """StableHLO for the table: the polynomials are too long for a jaxpr to be made of them first."""
    code = _Code(context.avals_in[0], arguments)
    return [code.stack([code.sum(list(terms)) for terms in rows]) for rows in table.results]


class _Code:
    """Straight-line code on rows [..., K] of arguments [..., V, K]. A sum is the value of a row, or a number that is the same in all."""

    def __init__(self, first: jax.core.ShapedArray, arguments: Sequence[mlir.ir.Value]) -> None:
        self._arguments = arguments
        self._lead, self._lanes = first.shape[:-2], first.shape[-1]
        self._element = mlir.dtype_to_ir_type(np.dtype(first.dtype))
        self._row = self._type()
        self.load = functools.cache(self._load)
        self.constant = functools.cache(self._constant)

    def stack(self, rows: Sequence[mlir.ir.Value | float]) -> mlir.ir.Value:
        """Rows [..., K] -> [..., Q, K]."""
        parts = [stablehlo.reshape(self._type(1), self._value(row)) for row in rows]
        return stablehlo.concatenate(parts, len(self._lead))

    def sum(self, terms: list[Term]) -> mlir.ir.Value | float:
        """Sum of terms by Horner's scheme in many variables: the factor that most terms have is taken out first."""
        parts: list[mlir.ir.Value | float] = []
        while terms:
            counts = Counter(factor for _, factors in terms for factor in set(factors))
            if not counts:
                parts.append(sum(coefficient for coefficient, _ in terms))
                break
            # Latest argument first among equals: a cotangent or a tangent, which no two terms of a sum share more than once.
            best = max(counts, key=lambda factor: (counts[factor], factor))
            rest, inside = [], []
            for coefficient, factors in terms:
                if best in factors:
                    k = factors.index(best)
                    inside.append((coefficient, factors[:k] + factors[k + 1 :]))
                else:
                    rest.append((coefficient, factors))
            scale = self.sum(inside)
            parts.append(
                self.load(best) if isinstance(scale, float) and scale == 1 else stablehlo.multiply(self.load(best), self._value(scale))
            )
            terms = rest
        while len(parts) > 1:  # in pairs: short chains of dependent additions, small rounding
            pairs = zip(parts[::2], parts[1::2], strict=False)
            parts = [stablehlo.add(self._value(a), self._value(b)) for a, b in pairs] + parts[len(parts) - len(parts) % 2 :]
        return parts[0] if parts else 0.0

    def _load(self, factor: Factor) -> mlir.ir.Value:
        argument, row = factor
        start, end = [0] * len(self._lead) + [row, 0], [*self._lead, row + 1, self._lanes]
        sliced = stablehlo.slice(self._arguments[argument], *map(mlir.dense_int_array, (start, end, [1] * len(end))))
        return stablehlo.reshape(self._row, sliced)

    def _constant(self, number: float) -> mlir.ir.Value:
        return stablehlo.constant(mlir.ir.DenseElementsAttr.get_splat(self._row, mlir.ir.FloatAttr.get(self._element, number)))

    def _value(self, x: mlir.ir.Value | float) -> mlir.ir.Value:
        return self.constant(x) if isinstance(x, float) else x

    def _type(self, *rows: int) -> mlir.ir.Type:
        return mlir.ir.RankedTensorType.get((*self._lead, *rows, self._lanes), self._element)


def _abstract(*arguments: jax.core.ShapedArray, table: Table) -> list[jax.core.ShapedArray]:
    first = arguments[0]
    return [jax.core.ShapedArray((*first.shape[:-2], len(rows), first.shape[-1]), first.dtype) for rows in table.results]


def _jvp(primals, tangents, *, table: Table):
    results = _polynomial.bind(*primals, table=table)
    parts = [
        _bind(table.derivative(k, len(primals)), (*primals, tangent))
        for k, tangent in enumerate(tangents)
        if not isinstance(tangent, ad.Zero)
    ]
    if not parts:
        return results, [ad.Zero.from_primal_value(result) for result in results]
    return results, [functools.reduce(jnp.add, part) for part in zip(*parts, strict=True)]


def _transpose(cotangents, *arguments, table: Table):
    (k,) = (k for k, argument in enumerate(arguments) if ad.is_undefined_primal(argument))
    known = [cotangent for cotangent in cotangents if not isinstance(cotangent, ad.Zero)]
    gradients: list[jax.Array | None] = [None] * len(arguments)
    if known:
        places = iter(range(len(arguments), len(arguments) + len(known)))
        where = tuple(None if isinstance(cotangent, ad.Zero) else next(places) for cotangent in cotangents)
        transposed = table.transpose(k, arguments[k].aval.shape[-2], where)
        # The argument itself does not occur in its transpose; a cotangent has its leading axes.
        (gradients[k],) = _bind(transposed, (*(known[0] if index == k else x for index, x in enumerate(arguments)), *known))
    return gradients


def _batch(arguments, dims, *, table: Table):
    size = next(x.shape[dim] for x, dim in zip(arguments, dims, strict=True) if dim is not None)

    def to_front(x: jax.Array, dim: int | None) -> jax.Array:
        return jnp.broadcast_to(x, (size, *x.shape)) if dim is None else jnp.moveaxis(x, dim, 0)

    results = _polynomial.bind(*(to_front(x, dim) for x, dim in zip(arguments, dims, strict=True)), table=table)
    return results, [0] * len(results)


_polynomial = Primitive("polynomial")
_polynomial.multiple_results = True
_polynomial.def_impl(lambda *arguments, table: jax.jit(functools.partial(_polynomial.bind, table=table))(*arguments))
_polynomial.def_abstract_eval(_abstract)
ad.primitive_jvps[_polynomial] = _jvp
ad.primitive_transposes[_polynomial] = _transpose
batching.primitive_batchers[_polynomial] = _batch
mlir.register_lowering(_polynomial, _lower)
