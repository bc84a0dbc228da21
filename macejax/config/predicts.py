"""What each kind of model predicts, and which options the models of dipoles and polarizabilities have not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from macejax.config.model import ModelConfig  # imports this module

ModelName = Literal["MACE", "ScaleShiftMACE", "AtomicDipolesMACE", "EnergyDipolesMACE", "AtomicDielectricMACE"]
ENERGIES = ("energy", "forces", "stress", "virials")
# What a model predicts, by name.
PREDICTS: dict[str, tuple[str, ...]] = {
    "MACE": ENERGIES,
    "ScaleShiftMACE": ENERGIES,
    "AtomicDipolesMACE": ("dipole",),
    "EnergyDipolesMACE": (*ENERGIES, "dipole"),
    "AtomicDielectricMACE": ("dipole", "polarizability"),
}
# Fields that the models of moments do not have, as those of mace-torch.
NOT_OF_MOMENTS = (
    "heads",
    "apply_cutoff",
    "distance_transform",
    "pair_repulsion",
    "edge_irreps",
    "edge_irreps_first_scalar",
    "so3",
    "agnostic_product",
    "readout",
    "last_readout_only",
    "joint_embedding",
    "embedding_readout",
    "scale",
    "shift",
)


def check_moments(config: ModelConfig) -> None:
    """Refuse options that a model of dipoles and polarizabilities does not have.

    Raises:
      ValueError: names the first one.
    """
    absent = list(NOT_OF_MOMENTS) + (["radial_basis"] if config.model == "EnergyDipolesMACE" else [])
    for name in absent:
        if getattr(config, name) != type(config).model_fields[name].default:
            raise ValueError(f"{config.model} has no {name}: leave it out.")
    if not isinstance(config.correlation, int):
        raise ValueError(f"correlation of {config.model} is one number, the same for every layer.")
    if not config.has_energies and any(config.e0_table[0]):
        raise ValueError(f"{config.model} has no energies: its e0s are all 0.")
