"""ASE calculator: one structure at a time, few compilations, neighbour lists that last many steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import partial
from os import PathLike
from typing import Any, Literal

import jax
import jraph
import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, PropertyNotImplementedError, all_changes
from ase.calculators.calculator import Calculator as AseCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from macejax.config import ConfigError, Precision
from macejax.data.batch import Capacity
from macejax.data.graph import AT_ONE_POINT
from macejax.data.structure import Structure, volume
from macejax.model.geometry import edge_vectors, rows, without_low
from macejax.model.heads import select_head
from macejax.model.linear import irreps_of, slices
from macejax.model.mace import MACE, layer_irreps
from macejax.model.model import Model, build
from macejax.model.tabulate import tabulate
from macejax.potential import Prediction, SiteEnergy, atomic_virials, hessian, moment_derivatives
from macejax.potential.predict import assemble_sites, sites_and_gradient
from macejax.simulate.checks import check_skin, loaded
from macejax.simulate.dielectric import derivative_results, moment_results, properties_of
from macejax.simulate.inputs import INFO_KEYS, structure_of
from macejax.simulate.policy import policy_of
from macejax.simulate.verlet import VerletList, lasts, make_list, move, same_inputs, within

MOST_NAMED = 10  # atoms, in one sentence
_OF_ONE_PROCESS = ("_evaluate", "_hessian", "_derivatives", "_features", "_params", "_list", "_capacities", "_near_slots")


class Calculator(AseCalculator):
    """Energies (eV), forces (eV/Angstrom), stress (eV/Angstrom^3, ASE's sign) and virials (eV) of a macejax model.

    Properties: `energy` and `free_energy` (equal), `energies` [N] (each with the E0 of its atom), `node_energy` [N] (without), `forces`
    [N, 3], `stress` [6] in Voigt order xx, yy, zz, yz, xz, xy, `virials` [N, 3, 3], which sum to -dE/d(strain), every edge shared half and
    half by its two atoms, and `stresses` [N, 6], the same over minus the volume, which sum to `stress`: names of mace-torch's calculator.
    Stresses exist where the cell has a volume; virials always. Models of dipoles have, instead or besides, `dipole` [3] in the unit of the
    model (`ModelConfig.dipole_unit`: Debye, and e Angstrom of AtomicDielectricMACE, as in mace-torch's calculator), and
    AtomicDielectricMACE `charges` [N] (e), `polarizability` [3, 3] and its spherical components `polarizability_sh` [6].

    A pickle has model, options, atoms and results; what is compiled is compiled again where it is read.

    Counters: `num_compilations` of the model, `num_rebuilds` of the neighbour list, `num_evaluations`.

    Args:
      model: a `macejax.Model`, or the path of a model file.
      dtype: precision of the computation, whatever jax's own default is: "float64", "float32", on a GPU "tf32x3" or
        "tf32", there and on a TPU "bf16", or a `macejax.Precision`. Results are float64.
      skin: the neighbour list reaches this much (Angstrom) beyond the cutoff and is kept until atoms or cell have moved so far that it
        could miss an edge; 0 makes a new list for every call.
      site_energy: takes the place of the model's own function `(params, vectors [N, M, 3], graph) -> node energies [N]`.
      head: which head to use, of a model with several.
      info_keys: where `atoms.info` has what a model may embed; other inputs have their own names there, or in `atoms.arrays`. By default,
        as in mace-torch's calculator, `charge` and `spin` are total charge and spin multiplicity; without them they are 0 and 1. The fixed
        charges of AtomicDipolesMACE and EnergyDipolesMACE are `Qs` in `atoms.arrays`, without which they are 0.
      radial: "table" puts splines in place of the radial networks (`macejax.tabulate`): a little faster, forces within 1e-5 of their rms.

    Raises:
      ValueError: dtype, also one that this device lacks; skin; a head that the model does not have; a model with several heads, none of
        which was named; a model of which there can be no table.

    Raises (when asked for a property):
      DataError: no atoms, an element that the model does not know, positions or cell that are not finite, a periodic direction without a
        lattice vector. PropertyNotImplementedError: stress of a system without volume. CalculationFailed: atoms within 0.001 Angstrom
        of each other, or of an image; the model's own numbers are not finite.
    """

    implemented_properties = ["energy", "free_energy", "energies", "node_energy", "forces", "stress", "stresses", "virials"]

    def __init__(
        self,
        model: Model | str | PathLike[str],
        *,
        dtype: str | Precision = "float64",
        skin: float = 0.5,
        site_energy: SiteEnergy | None = None,
        head: str | None = None,
        info_keys: Mapping[str, str] = INFO_KEYS,
        radial: Literal["network", "table"] = "network",
    ) -> None:
        super().__init__()
        self.precision = policy_of(dtype, site_energy)
        check_skin(skin)
        model = loaded(model)
        if head is not None or len(model.config.heads) > 1:
            model = select_head(model, head)
        if radial not in ("network", "table"):
            raise ConfigError(f"radial must be 'network' or 'table', not {radial!r}.")
        if radial == "table":
            if site_energy is not None:
                raise ConfigError("a site_energy of your own has no radial network that is known: leave radial out.")
            model = tabulate(model)
        self.model = model
        self.implemented_properties = properties_of(model.config, Calculator.implemented_properties)
        self.dtype = np.dtype(self.precision.parameters)
        self.info_keys = dict(info_keys)
        self.skin = skin
        self._site_energy = site_energy
        self._begin()

    def _begin(self) -> None:
        """Make the programs, not compiled yet, and set what counts and keeps their work to nothing: all that a pickle leaves out."""
        self.num_compilations = self.num_rebuilds = self.num_evaluations = 0
        self._capacities: list[Capacity] = []
        self._near_slots: dict[Capacity, int] = {}  # of the edges within the cutoff, for each of them
        self._list: VerletList | None = None
        module = build(self.model.config, matmul_precision=self.precision.products)
        function = module.apply if self._site_energy is None else self._site_energy

        def evaluate(params: Any, graph: jraph.GraphsTuple) -> tuple[Prediction, jax.Array | None, jax.Array]:
            self.num_compilations += 1  # python runs this while jax traces: once for each compilation
            sites, gradient = sites_and_gradient(function, params, graph)
            virials = None if gradient is None else atomic_virials(gradient, graph)
            return assemble_sites(sites, gradient, graph), virials, _shortest(graph)

        self._evaluate = jax.jit(evaluate)
        self._hessian = jax.jit(lambda params, graph, of: hessian(function, params, graph, of=of), static_argnums=2)
        self._derivatives = jax.jit(lambda params, graph: moment_derivatives(function, params, graph))
        self._features = None if self._site_energy is not None else jax.jit(partial(_features, module))
        with self._x64():
            self._params: Any = jax.tree.map(lambda x: jax.numpy.asarray(x, self.dtype), self.model.params)

    def __getstate__(self) -> dict[str, Any]:
        """Model, options, atoms and results; programs are of one process. Parameters as numpy's, which no precision of jax cuts short."""
        state = {name: value for name, value in self.__dict__.items() if name not in _OF_ONE_PROCESS}
        return state | {"model": self.model._replace(params=jax.tree.map(np.asarray, self.model.params))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __deepcopy__(self, memo: dict[int, Any]) -> Calculator:
        """A calculator of its own, which compiles nothing that this one has compiled."""
        copy = memo[id(self)] = type(self).__new__(type(self))
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        copy.share_program(self)
        return copy

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Fill `results` with every property that the structure has. ASE calls this."""
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        structure = self._structure(atoms)
        has_volume = volume(structure.cell) > 0
        if "stress" in properties and not has_volume:
            raise PropertyNotImplementedError(
                f"{atoms.get_chemical_formula()} has no stress, its cell no volume: ask for 'virials', or give it three lattice vectors."
            )
        with self._x64():
            kept = self._neighbors(structure)
            prediction, virials, shortest = jax.device_get(self._evaluate(self._params, self._batch(kept, structure)))
        self.num_evaluations += 1
        number = len(structure.numbers)
        if (shortest < AT_ONE_POINT).any():
            met = ", ".join(f"{atom} ({atoms.symbols[atom]})" for atom in np.flatnonzero(shortest < AT_ONE_POINT)[:MOST_NAMED])
            raise CalculationFailed(f"another atom, or an image of one, is within {AT_ONE_POINT} Angstrom of each of the atoms {met}.")
        self.results = {} if virials is None else self._energies(atoms, prediction, virials, kept.species, has_volume)
        if prediction.moments is not None:
            self.results |= moment_results(prediction.moments, number)

    def _energies(self, atoms: Atoms, prediction: Prediction, virials: np.ndarray, species: np.ndarray, has_volume: bool) -> dict[str, Any]:
        """Results of a model of energies."""
        found = (prediction.node_energy, prediction.forces, virials)
        node_energy, forces, virials = (np.asarray(x, np.float64)[: len(species)] for x in found)
        bad = ~(np.isfinite(node_energy) & np.isfinite(forces).all(axis=1))
        if bad.any():
            atom = int(np.argmax(bad))
            raise CalculationFailed(f"the energy or force of atom {atom} ({atoms.symbols[atom]}) is not finite: do atoms overlap?")
        energies = node_energy + np.asarray(self.model.config.e0_table[0], np.float64)[species]
        energy = float(np.sum(energies))
        results = {"energy": energy, "free_energy": energy, "energies": energies, "node_energy": node_energy}
        results |= {"forces": forces, "virials": virials}
        if has_volume:
            results["stresses"] = full_3x3_to_voigt_6_stress(-virials) / atoms.get_volume()
            results["stress"] = full_3x3_to_voigt_6_stress(np.asarray(prediction.stress[0], np.float64))
        return results

    def share_program(self, other: Calculator) -> None:
        """Use the compiled program of another calculator, whose model has the same configuration; its compilations are counted there."""
        self._evaluate, self._capacities, self._near_slots = other._evaluate, other._capacities, other._near_slots

    def get_hessian(self, atoms: Atoms | None = None, of: Sequence[int] | None = None) -> np.ndarray:
        """d2E/dr_ia dr_jb, [3 N, N, 3] (eV/Angstrom^2), row 3 i + a: as mace-torch's calculator has it. Memory grows with N^2.

        Args:
          atoms: structure; the calculator's own where it is not given.
          of: n atoms whose rows alone are wanted, [3 n, N, 3].

        Raises:
          ValueError: `of` names no atom, or one that is not there.
        """
        structure = self._structure(self.atoms_or_own(atoms))
        number = len(structure.numbers)
        wanted = tuple(range(number)) if of is None else tuple(int(atom) for atom in of)
        if not wanted or not all(0 <= atom < number for atom in wanted):
            raise ValueError(f"of names one atom or more, from 0 to {number - 1}, not {wanted}.")
        with self._x64():
            graph = self._batch(self._neighbors(structure), structure)
            found = np.asarray(self._hessian(self._params, graph, wanted), np.float64)
        return found[:, :, :number].reshape(3 * len(wanted), number, 3)

    def get_dielectric_derivatives(self, atoms: Atoms | None = None) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """d mu_a/d r_ib [3, N, 3] and, of AtomicDielectricMACE, d alpha_ab/d r_ic [9, N, 3]: as mace-torch's calculator has them.

        Args:
          atoms: structure; the calculator's own where it is not given.

        Raises:
          ValueError: the model has no dipoles.
        """
        structure = self._structure(self.atoms_or_own(atoms))
        with self._x64():
            found = jax.device_get(self._derivatives(self._params, self._batch(self._neighbors(structure), structure)))
        return derivative_results(found, len(structure.numbers))

    def get_descriptors(self, atoms: Atoms | None = None, invariants_only: bool = True, num_layers: int = -1) -> np.ndarray:
        """Node features of the layers, one after the other, [N, features].

        Args:
          atoms: structure; the calculator's own where it is not given.
          invariants_only: scalars alone. Else all irreps, ascending, each as channels times components (e3nn's layout).
          num_layers: first layers to give, -1 for all.

        Raises:
          ValueError: the calculator has a `site_energy` of its own, whose features nobody knows, or there are not so many layers.
        """
        if self._features is None:
            raise ValueError("a calculator with its own site_energy has no descriptors.")
        layers = layer_irreps(self.model.config)
        if not (num_layers == -1 or 1 <= num_layers <= len(layers)):
            raise ValueError(f"num_layers must be from 1 to {len(layers)}, or -1 for all, not {num_layers}.")
        structure = self._structure(self.atoms_or_own(atoms))
        with self._x64():
            found = jax.device_get(self._features(self._params, self._batch(self._neighbors(structure), structure)))
        parts = []
        for irreps, feature in list(zip(layers, found, strict=True))[: None if num_layers == -1 else num_layers]:
            for name, part in slices(irreps_of(irreps)).items():
                if name == "0e" or not invariants_only:
                    block = np.asarray(feature[: len(structure.numbers), part], np.float64)
                    parts.append(np.swapaxes(block, 1, 2).reshape(len(block), -1))
        return np.concatenate(parts, axis=1)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation; ASE, which asks, does not look at the inputs in `atoms.info`."""
        changes = super().check_state(atoms, tol)
        embeds = self.model.config.joint_embedding or self.model.config.has_moments
        if embeds and not changes and self.atoms is not None and not same_inputs(self._structure(self.atoms), self._structure(atoms)):
            changes = ["info"]
        return changes

    def _structure(self, atoms: Atoms) -> Structure:
        return structure_of(atoms, self.model.config, self.info_keys)

    def atoms_or_own(self, atoms: Atoms | None) -> Atoms:
        """The atoms, or those of the last calculation; ValueError where there is neither."""
        found = self.atoms if atoms is None else atoms
        if found is None:
            raise ValueError("the calculator has seen no atoms yet: give them.")
        return found

    def _neighbors(self, structure: Structure) -> VerletList:
        """The list kept from earlier calls, or a new one where that does not reach far enough."""
        cutoff, kept = self.model.config.cutoff, self._list
        if kept is None or not lasts(kept, structure, cutoff, cutoff + self.skin):
            config = self.model.config
            reach = cutoff + self.skin
            kept = make_list(structure, config.elements, cutoff, reach, self._capacities, self.dtype, config.joint_embedding)
            if kept.capacity not in self._capacities:
                self._capacities.append(kept.capacity)
            self._list = kept
            self.num_rebuilds += 1
        return kept

    def _batch(self, kept: VerletList, structure: Structure) -> jraph.GraphsTuple:
        """The edges within the cutoff at the positions of now, their low parts left out where the geometry is to be float32."""
        moved = move(kept, structure)
        if self.precision.geometry != "float64":
            moved = without_low(moved)
        return moved if self.skin == 0 else within(kept, moved, self.model.config.cutoff, self._near_slots)

    def _x64(self) -> AbstractContextManager:
        return jax.enable_x64(self.dtype == np.float64)


def _shortest(graph: jraph.GraphsTuple) -> jax.Array:
    """Length of the shortest edge of every atom [N] (Angstrom); infinite where there is none."""
    lengths = jax.numpy.linalg.norm(edge_vectors(graph), axis=-1)
    return jax.numpy.min(jax.numpy.where(rows(graph.edges["mask"], graph), lengths, jax.numpy.inf), axis=1, initial=jax.numpy.inf)


def _features(module: MACE, params: Any, graph: jraph.GraphsTuple) -> list[jax.Array]:
    return module.apply(params, edge_vectors(graph), graph, method="features")
