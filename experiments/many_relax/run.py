"""Structures relaxed per second: many at once, and one by one through ASE. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from ase.io import read
from ase.optimize import LBFGS

from macejax.checkpoint.load import load_model
from macejax.cli.process import set_up_jax
from macejax.simulate import Calculator
from macejax.simulate.many import relax_many

MEMORY = 25  # pairs of L-BFGS, as in relax_many


def main() -> None:
    """Relax the same structures both ways, twice: what is compiled in the first pass is there in the second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model file of macejax")
    parser.add_argument("structures", type=Path)
    parser.add_argument("--count", type=int, default=64, help="structures, evenly from the file")
    parser.add_argument("--fmax", type=float, default=0.05, help="eV/Angstrom")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-atoms", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    parser.add_argument("--output", type=Path, default=Path("many_relax.json"))
    options = parser.parse_args()
    set_up_jax(options.dtype)

    frames = read(options.structures, ":")
    frames = [frames[k] for k in np.linspace(0, len(frames) - 1, options.count).astype(int)]
    for atoms in frames:
        atoms.calc = None
    model = load_model(options.model)
    rows = [one_by_one(model, frames, options)]
    rows += [together(model, frames, options, batch_atoms) for batch_atoms in options.batch_atoms]
    reference = np.array(rows[0]["energies"])
    for row in rows:
        row["median_energy_difference_meV"] = float(np.median(1000 * np.abs(np.array(row.pop("energies")) - reference)))
        row["converged"] = sum(row["converged"])
        print(json.dumps(row), flush=True)
    about = {"structures": len(frames), "atoms": sum(map(len, frames)), "fmax": options.fmax, "dtype": options.dtype}
    about |= {"model": str(options.model.name), "load": os.getloadavg(), "processors": os.cpu_count()}
    options.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def one_by_one(model, frames, options) -> dict:
    """ASE's L-BFGS and our calculator, which keeps its compiled programs and neighbour lists."""
    calculator = Calculator(model, dtype=options.dtype)
    row: dict = {"way": "one by one"}
    for name in ("first", "second"):
        wall, processor = time.perf_counter(), time.process_time()
        steps, energies, converged = 0, [], []
        for start in frames:
            atoms = start.copy()
            atoms.calc = calculator
            algorithm = LBFGS(atoms, logfile=None, memory=MEMORY)
            converged.append(bool(algorithm.run(fmax=options.fmax, steps=options.steps)))
            energies.append(float(atoms.get_potential_energy()))
            steps += algorithm.nsteps
        row |= timing(name, wall, processor, len(frames)) | {"steps": steps}
    return row | {"compilations": calculator.num_compilations, "energies": energies, "converged": converged}


def together(model, frames, options, batch_atoms: int) -> dict:
    """`relax_many`."""
    row: dict = {"way": f"many at once, {batch_atoms} atoms at a time"}
    compilations = 0
    for name in ("first", "second"):
        wall, processor = time.perf_counter(), time.process_time()
        found = relax_many(
            model, frames, fmax=options.fmax, steps=options.steps, optimizer="LBFGS", dtype=options.dtype, batch_atoms=batch_atoms
        )
        compilations += found.summary.compilations
        row |= timing(name, wall, processor, len(frames)) | {"steps": sum(result.end.step for result in found.results)}
    ends = [result.end for result in found.results]
    return row | {"compilations": compilations, "energies": [end.energy for end in ends], "converged": [end.converged for end in ends]}


def timing(name: str, wall: float, processor: float, count: int) -> dict:
    """Structures per second of wall time, and processor time per structure."""
    return {
        f"{name}_per_second": count / (time.perf_counter() - wall),
        f"{name}_processor_seconds_each": (time.process_time() - processor) / count,
    }


if __name__ == "__main__":
    main()
