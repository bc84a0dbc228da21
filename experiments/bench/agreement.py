"""What does not compute the same is not timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

# Largest difference to mace-torch that is timed: energy (eV/atom), force (of the rms force) and stress (of its rms).
LIMITS = {
    "float32": {"energy_per_atom": 1e-5, "force_over_rms": 3e-4, "stress_over_rms": 3e-4},
    "float64": {"energy_per_atom": 1e-9, "force_over_rms": 1e-8, "stress_over_rms": 1e-8},
}


def compare(row: dict[str, Any], folder: Path, case: str) -> None:
    """Compare the answers of macejax in a folder with those of every mace-torch there, and put the differences into the row.

    mlip, whose weights are its own, has compared its forces with its energies.

    Raises:
      RuntimeError: they differ by more than LIMITS.
    """
    ours = np.load(folder / "macejax.npz")
    for file in sorted(folder.glob("mace-torch*.npz")):
        theirs = np.load(file)
        # Relative where energies are large: random weights of a block with a density make 1e7 eV per atom.
        size = max(float(np.abs(theirs["energies"]).max()) / row["atoms"], 1.0)
        found = {
            "energy_per_atom": float(np.abs(theirs["energies"] - ours["energies"]).max() / row["atoms"] / size),
            "force_over_rms": _over_rms(ours["forces"], theirs["forces"]),
        }
        if "stress" in theirs:
            found["stress_over_rms"] = _over_rms(ours["stress"], theirs["stress"])
        row.setdefault("difference", {})[file.stem] = found
        if not all(value <= LIMITS[row["dtype"]][name] for name, value in found.items()):
            raise RuntimeError(f"{case}: macejax and {file.stem} differ, {found}: not timed.")


def _over_rms(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, over the root mean square of what it is a difference from."""
    return float(np.abs(theirs - ours).max() / np.sqrt(np.mean(theirs**2)))
