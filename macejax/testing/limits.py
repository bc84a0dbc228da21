"""How exact a potential must be, one named constant per promise: in float64, and in float32 against float64 with the same weights.

`None` says that the promise is not checked in that precision. A promise about forces that speaks of their rms takes FORCE_FLOOR where that
is smaller, and one that is relative takes UNIT, so that symmetric structures, whose forces vanish, have a threshold that is not zero.
"""

from __future__ import annotations

from typing import NamedTuple


class Limit(NamedTuple):
    """Largest error allowed, for each dtype of the computation."""

    float64: float | None
    float32: float | None


FORCE_FLOOR = 1e-2  # eV/Angstrom, smallest rms force
STRAIN_FLOOR = 1e-1  # eV, smallest dE/d(strain)
# Forces and dE/d(strain) are sums over pairs, which cancel in crystals to a hundredth and less. Errors count beyond the epsilon of the
# dtype times the sum of the magnitudes times this: no pair's force is known better.
EPSILONS = 4
GRADIENT_FLOOR = 1e-3  # of the largest parameter gradient: smaller ones are compared in units of it
UNIT = 1.0  # eV or eV/Angstrom: relative errors are relative to this where the value is smaller

FORCE_STEP = 3e-4  # Angstrom
STRAIN_STEP = 3e-5
PARAMETER_STEP = 1e-4
COINCIDENT = 1e-3  # Angstrom: at shorter distances rounding of the coordinates turns the direction of a pair
CLOSEST_PAIR = 0.3  # Angstrom: at shorter distances directions turn by more than a finite difference resolves

# Row 1 to 3: derivatives.
FORCE_FD_ABSOLUTE = Limit(1e-6, None)  # eV/Angstrom
FORCE_FD_RELATIVE = Limit(1e-6, None)  # rms force
FORCE_PRECISION = Limit(None, 1e-4)  # rms force
STRESS_FD = Limit(1e-7, None)  # eV/Angstrom^3; eV where there is no volume
STRESS_PRECISION = Limit(None, 1e-4)  # relative
HESSIAN_FD = Limit(1e-6, None)  # eV/Angstrom^2
HESSIAN_SYMMETRY = Limit(1e-6, None)  # eV/Angstrom^2
HESSIAN_ACOUSTIC = Limit(1e-8, None)  # eV/Angstrom^2

# Row 4 to 6, 15: symmetries.
ROTATION_ENERGY = Limit(1e-10, 1e-5)  # eV/atom; relative in float32
ROTATION_FORCE_ABSOLUTE = Limit(1e-10, None)  # eV/Angstrom
ROTATION_FORCE_RELATIVE = Limit(1e-10, 1e-4)  # rms force
ROTATION_STRAIN = Limit(1e-10, 1e-4)  # relative
ROTATION_FEATURES = Limit(1e-10, 1e-5)  # largest feature
PERMUTATION = Limit(1e-11, 1e-5)  # relative
LATTICE_TRANSLATION = Limit(1e-11, 1e-5)  # relative
EDGE_SETS = Limit(1e-9, 1e-9)  # Angstrom, largest difference of an edge vector and its twin; the lists are float64
EQUIVALENT_CELL = Limit(1e-10, 1e-5)  # relative

# Row 7 to 12, 14: locality.
BATCHING = Limit(1e-12, 1e-5)  # relative
LEAKAGE = Limit(0.0, 0.0)
CUTOFF_ENERGY = Limit(1e-9, 1e-6)  # eV; relative in float32
CUTOFF_FORCE = Limit(1e-6, 1e-4)  # eV/Angstrom
CUTOFF_CURVATURE = Limit(1e-4, None)  # eV/Angstrom^2
LIST_INDEPENDENCE = Limit(1e-12, 1e-6)  # relative, of one dtype: float32 against float64 is held to BATCHING
EXTENSIVITY_ENERGY = Limit(1e-10, 1e-5)  # eV/atom; relative in float32
EXTENSIVITY_FORCE = Limit(1e-10, 1e-5)  # relative
FRAGMENTS = Limit(1e-10, 1e-4)  # relative
SMALL_CELL = Limit(1e-10, 1e-5)  # relative

# Row 13, 16 to 21: edge cases.
ATOM_DERIVATIVES = Limit(0.0, 0.0)
# Relative to the energy that is expected, and exact where that is 0: another is a sum of scale, shift and readouts, which is rounded.
ATOM_ENERGY = Limit(1e-12, 1e-6)
OPEN_STRESS = Limit(1e-10, 1e-5)  # relative
OPEN_TRANSLATION = Limit(1e-10, 1e-5)  # relative
VIOLATIONS = Limit(0.0, 0.0)  # number of violations, for promises that hold or do not
LOSS_GRADIENT_FD = Limit(1e-6, None)  # relative
