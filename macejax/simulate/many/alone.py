"""Relaxation of one system after the other through ASE, with the signature and results of `relax_many`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ase import Atoms

from macejax.config import Precision
from macejax.simulate.calculator import Calculator
from macejax.simulate.many.drive import Summary
from macejax.simulate.many.relax import Relaxations, Relaxed
from macejax.simulate.many.systems import Given, copies_of, names_of
from macejax.simulate.record import snapshot
from macejax.simulate.relax import Relaxation, relax


def relax_one_by_one(
    model: Given,
    systems: Sequence[Atoms],
    *,
    fmax: float = 0.01,
    steps: int = 500,
    cell: bool = False,
    pressure: float = 0.0,
    observe: Callable[[int, Atoms, Relaxation], None] | None = None,
    on_result: Callable[[int, Relaxed], None] | None = None,
    names: Sequence[str] | None = None,
    dtype: str | Precision = "float64",
    head: str | None = None,
) -> Relaxations:
    """By ASE's BFGS. Any of ASE's constraints is kept. Arguments and errors as for `relax_many` and `macejax.simulate.relax`."""
    calculator = Calculator(model, dtype=dtype, head=head)
    results = []
    copies = copies_of(systems)
    for place, (name, atoms) in enumerate(zip(names_of(copies, names), copies, strict=True)):
        path: list[Relaxation] = []
        atoms.calc = calculator

        def see(atoms: Atoms, state: Relaxation, place: int = place, path: list[Relaxation] = path) -> None:
            path.append(state)
            if observe is not None:
                observe(place, atoms, state)

        end = relax(atoms, fmax=fmax, steps=steps, cell=cell, pressure=pressure, observe=see)
        sentence = f"{name}: not converged after {end.step} steps: the largest force is {end.largest_force:.3g} eV/Å."
        results.append(Relaxed(name, snapshot(atoms), end, path, "" if end.converged else sentence))
        if on_result is not None:
            on_result(place, results[-1])
    return Relaxations(results, Summary(calculator.num_compilations, calculator.num_evaluations, calculator.num_rebuilds))
