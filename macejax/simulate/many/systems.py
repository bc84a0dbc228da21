"""From ase.Atoms to systems and back: names, and options that are one for all or one for each."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from os import PathLike
from typing import Any, TypeAlias

import jax
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from macejax.config import ConfigError, ModelConfig
from macejax.data.species import species_index
from macejax.data.structure import Structure
from macejax.model.heads import select_head
from macejax.model.model import Model, build
from macejax.potential import SiteEnergy
from macejax.simulate.checks import check_skin, loaded, whole
from macejax.simulate.many.fields import Fields
from macejax.simulate.record import unlabelled

Given: TypeAlias = Model | str | PathLike[str]  # a model, or the path of its file


def copies_of(systems: Sequence[Atoms]) -> list[Atoms]:
    """Copies of what is to be run, none of which may be without a list around it.

    Raises:
      ConfigError: there is none, or one by itself.
    """
    if isinstance(systems, Atoms):
        raise ConfigError("systems must be a list of Atoms: put the one that you have into brackets.")
    if len(systems) == 0:
        raise ConfigError("there is no system to run.")
    return [atoms.copy() for atoms in systems]


def names_of(systems: Sequence[Atoms], given: Sequence[str] | None = None) -> list[str]:
    """What a person calls each system: as given, or its place and formula."""
    if given is not None:
        return each(list(given), len(systems), "names")
    return [f"system {k} ({atoms.get_chemical_formula()})" for k, atoms in enumerate(systems)]


def each(value: Any, count: int, option: str) -> list[Any]:
    """An option that is one value for all, or a sequence with one for each.

    Raises:
      ConfigError: a sequence of another length.
    """
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str):
        if len(value) != count:
            raise ConfigError(f"{option} has {len(value)} values for {count} systems: give one for each, or one for all.")
        return list(value)
    return [value] * count


def settings_of(options: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The options of every system, as Python's numbers, of options that are one value for all or one for each.

    Raises:
      ConfigError: a sequence of another length.
    """
    values = {name: each(value, count, name) for name, value in options.items()}
    of_each = [{name: value[k] for name, value in values.items()} for k in range(count)]
    return [{name: x.item() if isinstance(x, np.generic) else x for name, x in options.items()} for options in of_each]


def lanes_of(model: Given | Sequence[Given], count: int, head: str | None) -> tuple[list[Model], list[int]]:
    """The different models, each with one head, and which one each of `count` systems has; a file is read once.

    Raises:
      ConfigError: they are not one for each system, not of one configuration, or have no energies. ValueError: a head that is not there, or
        several, none of which was named.
    """
    if isinstance(model, Model | str | PathLike):
        return [_with_head(loaded(model), head)], [0] * count
    different: list[Model] = []
    lanes = []
    read = functools.cache(loaded)
    for given in (given if isinstance(given, Model) else read(given) for given in each(model, count, "model")):
        lane = next(
            (k for k, known in enumerate(different) if known.params is given.params and known.config == given.config), len(different)
        )
        if lane == len(different):
            different.append(given)
        lanes.append(lane)
    different = [_with_head(model, head) for model in different]
    if any(other.config != different[0].config for other in different):
        raise ConfigError("models that run together have one configuration, E0s and scale included: run the others by themselves.")
    return different, lanes


def _with_head(model: Model, head: str | None) -> Model:
    if not model.config.has_energies:
        raise ConfigError(f"a {model.config.model} predicts no energies, so that nothing moves: use a model of energies.")
    return model if head is None and len(model.config.heads) == 1 else select_head(model, head)


def check_run(steps: int, every: int, skin: float, batch_atoms: int) -> None:
    """Refuse what makes no sense for any system.

    Raises:
      ConfigError: in a sentence.
    """
    for name, value, least in (("steps", steps, 0), ("every", every, 1), ("batch_atoms", batch_atoms, 1)):
        whole(name, value, least)
    check_skin(skin, zero=False)


def params_of(models: Sequence[Model], dtype: Any) -> Any:
    """Parameters in `dtype`; with a leading axis where there are several models. Call it with x64 on."""
    trees = [jax.tree.map(lambda x: np.asarray(x, dtype), model.params) for model in models]
    return jax.device_put(trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *trees))


def site_energy_of(config: ModelConfig, own: SiteEnergy | None, products: str) -> SiteEnergy:
    """The model's function with its matrix products in a precision of `build`, or the caller's."""
    return build(config, matmul_precision=products).apply if own is None else own


def e0_of(structure: Structure, config: ModelConfig) -> float:
    """Sum of the energies of the isolated atoms (eV).

    Raises:
      DataError: the model does not know an element.
    """
    return float(np.asarray(config.e0_table[0], np.float64)[species_index(structure.numbers, config.elements, structure.source)].sum())


def atoms_of(start: Atoms, frame: Fields, e0: float) -> Atoms:
    """The system as `start` describes it, where `frame` has it, with energy, forces and, where there is a volume, stress."""
    atoms = unlabelled(start)
    atoms.set_cell(frame.globals["cell"])
    atoms.set_positions(frame.nodes["positions"], apply_constraint=False)
    if "momenta" in frame.nodes:
        atoms.set_momenta(frame.nodes["momenta"], apply_constraint=False)
    results: dict[str, Any] = {"energy": float(frame.globals["energy"]) + e0, "forces": frame.nodes["forces"]}
    if frame.globals["has_volume"]:
        stress = frame.globals["strain_derivative"] / atoms.get_volume()
        results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
