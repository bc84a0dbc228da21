"""What follows from energies and their derivatives: phonons, elastic constants, equations of state, free energies, barriers."""

from macejax.properties.barrier import ReactionPath, reaction_path
from macejax.properties.dimers import DimerCurve, dimer_curves
from macejax.properties.elastic import Elastic, Moduli, elastic_tensor, moduli
from macejax.properties.eos import EquationOfStateFit, equation_of_state
from macejax.properties.molecule import MolecularThermodynamics, molecular_free_energy
from macejax.properties.phonon import (
    BandStructure,
    DensityOfStates,
    Thermodynamics,
    band_structure,
    density_of_states,
    phonons,
    thermodynamics,
)

__all__ = [
    "BandStructure",
    "DensityOfStates",
    "DimerCurve",
    "Elastic",
    "EquationOfStateFit",
    "Moduli",
    "MolecularThermodynamics",
    "ReactionPath",
    "Thermodynamics",
    "band_structure",
    "density_of_states",
    "dimer_curves",
    "elastic_tensor",
    "equation_of_state",
    "moduli",
    "molecular_free_energy",
    "phonons",
    "reaction_path",
    "thermodynamics",
]
