"""i-PI as a server, in a process of its own: NVE of the atoms of a file, forces from clients on loopback, every step to a file.

Usage: python ipi_server.py INPUT.npz OUTPUT.npz PORT [PORT ...]

One client on each port; their forces are added up. All numbers are in atomic units, so that no conversion but the client's is tested.
Input: q [3 N], p [3 N], m [N], names [N], h [3, 3] (i-PI's columns), timestep, steps. Output: q, p, f [steps + 1, 3 N], v [steps + 1].
"""

from __future__ import annotations

import sys

import numpy as np
from ipi.scripting import InteractiveSimulation
from ipi.utils.depend import dstrip


def run(source: str, target: str, ports: list[str]) -> None:
    given = np.load(source)
    number = len(given["m"])
    sockets = "".join(
        f"<ffsocket name='model{k}' mode='inet' pbc='False'><address>127.0.0.1</address><port>{port}</port></ffsocket>"
        for k, port in enumerate(ports)
    )
    simulation = InteractiveSimulation(f"""
<simulation verbosity='quiet' safe_stride='1000000'>
  {sockets}
  <output prefix='ipi'></output>
  <system>
    <beads natoms='{number}' nbeads='1'>
      <q shape='(1, {3 * number})'> {_text(given["q"])} </q>
      <p shape='(1, {3 * number})'> {_text(given["p"])} </p>
      <m shape='({number})'> {_text(given["m"])} </m>
      <names shape='({number})'> {_text(given["names"])} </names>
    </beads>
    <cell shape='(3, 3)'> {_text(given["h"].ravel())} </cell>
    <forces> {"".join(f"<force forcefield='model{k}'/>" for k in range(len(ports)))} </forces>
    <motion mode='dynamics'><fixcom> False </fixcom>
      <dynamics mode='nve'><timestep units='atomic_unit'> {float(given["timestep"])!r} </timestep></dynamics>
    </motion>
  </system>
</simulation>""")
    system = simulation.syslist[0]
    frames: dict[str, list[np.ndarray]] = {"q": [], "p": [], "f": [], "v": []}
    for step in range(int(given["steps"]) + 1):
        if step:
            simulation.run(1, write_outputs=False)
        for name, value in (("q", system.beads.q), ("p", system.beads.p), ("f", system.forces.f), ("v", system.forces.pots)):
            frames[name].append(np.array(dstrip(value))[0])
    np.savez(target, **{name: np.array(values) for name, values in frames.items()})
    for forcefield in simulation.fflist.values():
        forcefield.stop()


def _text(values: np.ndarray) -> str:
    return "[ " + ", ".join(str(value) for value in values.tolist()) + " ]"


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3:])
