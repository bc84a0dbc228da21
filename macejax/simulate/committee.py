"""Several models as one ASE calculator: their mean, and how far they are apart."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from ase.stress import voigt_6_to_full_3x3_stress

from macejax.model.model import Model
from macejax.simulate.calculator import Calculator

SPREAD = ("energy", "energies", "forces", "stress", "dipole")
OF_ALL = ("_comm", "_var")


class Committee(AseCalculator):
    """The mean of models trained alike, whose spread tells where they do not know.

    Every property of `Calculator` is the mean over the members. Beside it, in `results` and by `get_property`, with the names and shapes of
    mace-torch's calculator: `<property>_comm`, what each member says, first axis the C members, and `<property>_var`, the variance over
    them (divided by their number).

    | property | unit | `_comm` | `_var` |
    |---|---|---|---|
    | energy | eV | [C] | a float (eV^2) |
    | energies, which mace-torch's has not | eV | [C, N] | [N] |
    | forces | eV/Angstrom | [C, N, 3] | [N, 3] |
    | stress, whole here, though the mean is in Voigt order | eV/Angstrom^3 | [C, 3, 3] | [3, 3] |
    | dipole | that of the model | [C, 3] | [3] |

    `get_force_spread` is what active learning asks.

    Members of equal configuration, E0s and scale included, share one compiled program; each keeps its own neighbour list. A pickle is
    as that of `Calculator`.

    Args:
      models: models or paths of model files, or one pattern of paths, such as "committee_*.model".
      options: as for `Calculator`, the same for every member.

    Raises:
      ValueError: fewer than two models.
    """

    implemented_properties = Calculator.implemented_properties

    def __init__(self, models: Sequence[Model | str | PathLike[str]] | str, **options: Any) -> None:
        super().__init__()
        found = sorted(glob.glob(models)) if isinstance(models, str) else list(models)
        if len(found) < 2:
            raise ValueError(f"a committee has two members or more, not {len(found)}{f' ({models})' if isinstance(models, str) else ''}.")
        self.members = [Calculator(model, **options) for model in found]
        self._share_programs()
        of_one = self.members[0].implemented_properties
        self.implemented_properties = of_one + [f"{name}{of_all}" for name in SPREAD if name in of_one for of_all in OF_ALL]

    def _share_programs(self) -> None:
        """Let members of one configuration use the program of the first of them."""
        for k, member in enumerate(self.members):
            member.share_program(next(other for other in self.members[: k + 1] if other.model.config == member.model.config))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share_programs()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation, inputs in `atoms.info` among it."""
        return super().check_state(atoms, tol) or self.members[0].check_state(atoms, tol)

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Fill `results`. ASE calls this."""
        super().calculate(atoms, properties, system_changes)
        of_one = [name.removesuffix("_comm").removesuffix("_var") for name in properties]
        for member in self.members:
            member.calculate(self.atoms, of_one)
        self.results = {}
        for name in self.members[0].results:
            values = np.stack([member.results[name] for member in self.members])
            self.results[name] = _over_members(np.mean, values)
            if name in SPREAD:
                if name == "stress":
                    values = voigt_6_to_full_3x3_stress(values)
                self.results[f"{name}_comm"] = values
                self.results[f"{name}_var"] = _over_members(np.var, values)

    def get_force_spread(self, atoms: Atoms | None = None) -> np.ndarray:
        """Standard deviation over the members of the force on every atom, [N] (eV/Angstrom): the root of the summed variances of its
        components.
        """
        self.get_property("forces", self.members[0].atoms_or_own(atoms))
        return np.sqrt(np.sum(self.results["forces_var"], axis=-1))

    def get_descriptors(self, atoms: Atoms | None = None, **options: Any) -> list[np.ndarray]:
        """`Calculator.get_descriptors` of every member, as a list, which is what mace-torch's calculator gives too."""
        return [member.get_descriptors(atoms, **options) for member in self.members]

    def get_hessian(self, atoms: Atoms | None = None, **options: Any) -> list[np.ndarray]:
        """`Calculator.get_hessian` of every member, as a list."""
        return [member.get_hessian(atoms, **options) for member in self.members]

    def get_dielectric_derivatives(self, atoms: Atoms | None = None) -> list[Any]:
        """`Calculator.get_dielectric_derivatives` of every member, as a list."""
        return [member.get_dielectric_derivatives(atoms) for member in self.members]


def _over_members(function: Callable[..., Any], values: np.ndarray) -> float | np.ndarray:
    """A statistic over the first axis; a number where a member has one."""
    found = function(values, axis=0)
    return float(found) if values.ndim == 1 else found
