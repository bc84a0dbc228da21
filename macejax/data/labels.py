"""Frame of a file + the names of its labels -> Structure."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from macejax.data.structure import LABELS, DataError, Structure, check

ASE_NAMES = {"energy": "energy", "forces": "forces", "stress": "stress"}  # what ASE itself calls them
VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # place of each entry of a 3x3 tensor in xx, yy, zz, yz, xz, xy


class Keys(NamedTuple):
    """Under which name a file holds each quantity. None: do not read it. The defaults are MACE's.

    Where none of the label keys is anywhere in a file, ASE's own names (energy, forces, stress) are understood instead of those left at
    their default; else a warning counts the frames that have a label under ASE's name alone. A key that is not the default must be in
    the file.
    """

    energy: str | None = "REF_energy"  # eV
    forces: str | None = "REF_forces"  # eV/Angstrom
    stress: str | None = "REF_stress"  # eV/Angstrom^3, ASE's sign; 3x3, 9 numbers or 6 in Voigt order
    virials: str | None = "REF_virials"  # eV, -volume * stress; in the same forms
    dipole: str | None = "dipole"  # e Angstrom or Debye, see ModelConfig.dipole_unit
    polarizability: str | None = "polarizability"  # 3x3, 9 numbers or 6 in Voigt order
    charges: str | None = "REF_charges"  # e
    head: str | None = "head"
    total_charge: str | None = "total_charge"  # e
    total_spin: str | None = "total_spin"  # multiplicity
    inputs: tuple[str, ...] = ("elec_temp",)  # what else a model may read, values of the frame or columns of atoms, by their own names
    config_type: str | None = "config_type"
    weight: str | None = "config_weight"  # of the structure; config_energy_weight, config_forces_weight, ... of its labels


class Frame(NamedTuple):
    """What a file says of one structure, names and values as they are there."""

    numbers: np.ndarray  # [N] int
    positions: np.ndarray  # [N, 3] Angstrom
    cell: np.ndarray  # [3, 3] Angstrom
    pbc: np.ndarray  # [3] bool
    info: Mapping[str, Any]  # per structure; values may be text
    arrays: Mapping[str, np.ndarray]  # per atom, [N, ...]
    source: str  # "file.xyz:frame 12"


MACE_KEYS = Keys()
PER_ATOM = ("forces", "charges")


def label_frames(frames: Sequence[Frame], keys: Keys, name: str, need_labels: bool = True) -> list[Structure]:
    """Structures of all the frames of one file.

    Args:
      frames: the frames.
      keys: names of the labels.
      name: of the file, for messages about all of it.
      need_labels: whether a file without any label is an error.

    Raises:
      DataError: a key that is not the default is in no frame; there is no label at all; a frame is invalid.
    """
    keys = _resolve(frames, keys, name, need_labels)
    return [_structure(frame, keys) for frame in frames]


def _resolve(frames: Sequence[Frame], keys: Keys, name: str, need_labels: bool) -> Keys:
    """The keys that this file uses."""
    there = {key for frame in frames for key in (*frame.info, *frame.arrays)}
    if keys.charges == "charges" and "charges" not in there and "charge" in there:
        keys = keys._replace(charges="charge")  # ASE writes the one and reads the other
    pairs = [(field, key) for field, key in keys._asdict().items() if field != "inputs" and key != getattr(MACE_KEYS, field)]
    pairs += [("inputs", key) for key in keys.inputs if key not in MACE_KEYS.inputs]
    for field, key in pairs:
        if key is not None and key not in there:
            raise DataError(f"{name}: the key {key!r} for {field} is in no frame; {_listing(there)}")
    if not any(getattr(keys, label) in there for label in (*ASE_NAMES, "virials")):
        left_at_default = [label for label in ASE_NAMES if getattr(keys, label) == getattr(MACE_KEYS, label)]
        own_names: dict[str, Any] = {label: ASE_NAMES[label] for label in left_at_default if ASE_NAMES[label] in there}
        keys = keys._replace(**own_names)
    _warn_of_other_names(frames, keys, name)
    wanted = [getattr(keys, field) for field in (*LABELS, "charges")]
    if need_labels and not any(key in there for key in wanted):
        looked_for = ", ".join(repr(key) for key in wanted if key is not None)
        raise DataError(f"{name}: holds no labels; looked for {looked_for} and ASE's energy, forces, stress; {_listing(there)}")
    return keys


def _warn_of_other_names(frames: Sequence[Frame], keys: Keys, name: str) -> None:
    """Say how many frames have a label under ASE's name alone, where the file is read by another: it may be of another level of theory."""
    for label, own in ASE_NAMES.items():
        key = getattr(keys, label)
        if key in (None, own):
            continue
        lost = sum((own in frame.info or own in frame.arrays) and not (key in frame.info or key in frame.arrays) for frame in frames)
        if lost:
            warnings.warn(
                f"{name}: {lost} of {len(frames)} frames have {own!r} but no {key!r}, and are read without that label. Give all frames "
                f"one name for it, or set the key for {label} to {own!r} if that is the label to use.",
                stacklevel=5,
            )


def _listing(there: set[str]) -> str:
    return f"the keys there are: {', '.join(sorted(there))}." if there else "there are no keys at all."


def _structure(frame: Frame, keys: Keys) -> Structure:
    def value(field: str) -> Any:
        key = getattr(keys, field)
        return None if key is None else (frame.arrays if field in PER_ATOM else frame.info).get(key)

    for field in (field for field in keys._fields if field != "inputs"):
        _refuse_wrong_place(frame, getattr(keys, field), field)

    def number(field: str, absent: float) -> float:
        return absent if value(field) is None else _number(value(field), getattr(keys, field), frame)

    weight_keys = {label: f"config_{label}_weight" for label in LABELS}
    return check(
        Structure(
            numbers=frame.numbers,
            positions=frame.positions,
            cell=frame.cell,
            pbc=frame.pbc,
            energy=number("energy", math.nan),
            forces=value("forces"),
            stress=_tensor(value("stress"), keys.stress, frame),
            virials=_tensor(value("virials"), keys.virials, frame),
            dipole=_numbers(value("dipole"), keys.dipole, frame),
            polarizability=_tensor(value("polarizability"), keys.polarizability, frame),
            charges=value("charges"),
            head=_text(value("head")),
            total_charge=number("total_charge", 0.0),
            total_spin=number("total_spin", 1.0),
            inputs={name: _input(frame, name) for name in keys.inputs if name in frame.info or name in frame.arrays},
            config_type=_text(value("config_type")),
            weight=number("weight", 1.0),
            weights={label: _number(frame.info[key], key, frame) for label, key in weight_keys.items() if frame.info.get(key) is not None},
            source=frame.source,
        )
    )


def _input(frame: Frame, name: str) -> float | np.ndarray:
    return frame.arrays[name] if name in frame.arrays else _number(frame.info[name], name, frame)


def _refuse_wrong_place(frame: Frame, key: str | None, field: str) -> None:
    if field in PER_ATOM and key in frame.info and key not in frame.arrays:
        raise DataError(f"{frame.source}: {key!r} should be a column of every atom, but is one value of the frame.")
    if field not in PER_ATOM and key in frame.arrays and key not in frame.info:
        raise DataError(f"{frame.source}: {key!r} should be one value of the frame, but is a column of every atom.")


def _text(value: object) -> str:
    return "Default" if value is None or value == "" else str(value)


def _numbers(value: object, key: str | None, frame: Frame) -> np.ndarray | None:
    """Numbers from text ("1 2 3", "[[1, 2], [3, 4]]", "_JSON [1.0]") or from anything that numpy takes for numbers."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return np.array([float(word) for word in value.removeprefix("_JSON").translate(_SEPARATORS).split()])
        array = np.asarray(value)
        if array.dtype.kind in "iuf":
            return array.astype(np.float64)
    except (TypeError, ValueError):
        pass
    raise DataError(f"{frame.source}: {key} is {str(value)[:60]!r}, which is not a number.")


_SEPARATORS = str.maketrans("[]{}(),", "       ")


def _number(value: object, key: str | None, frame: Frame) -> float:
    numbers = _numbers(value, key, frame)
    if numbers is None or numbers.size != 1:
        raise DataError(f"{frame.source}: {key} is {str(value)[:60]!r}, but must be one number.")
    return float(numbers.reshape(()))


def _tensor(value: object, key: str | None, frame: Frame) -> np.ndarray | None:
    numbers = _numbers(value, key, frame)
    if numbers is None:
        return None
    if numbers.size == 9:
        return numbers.reshape(3, 3)
    if numbers.size == 6:
        return numbers.reshape(6)[VOIGT]
    raise DataError(f"{frame.source}: {key} has {numbers.size} numbers; a symmetric tensor has 9, or 6 in Voigt order.")
