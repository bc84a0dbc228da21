"""What each kind of model predicts, and which options the models of dipoles and polarizabilities have not."""

from __future__ import annotations

from typing import Literal

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
    "keep_last_layer_irreps",
    "so3",
    "agnostic_product",
    "readout",
    "last_readout_only",
    "joint_embedding",
    "embedding_readout",
    "scale",
    "shift",
)
