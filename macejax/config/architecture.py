"""The part of an architecture that a user and a model say alike."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from macejax.config.embedding import EmbeddingConfig
from macejax.config.section import Section


class Architecture(Section):
    """Options of the layers. Defaults are those of mace_run_train."""

    cutoff: float = Field(5.0, gt=0, description="Cutoff radius (Angstrom).")
    num_bessel: int = Field(8, ge=1, description="Number of radial basis functions.")
    radial_basis: Literal["bessel", "gaussian", "chebyshev"] = Field("bessel", description="Kind of the radial basis functions.")
    cutoff_power: int = Field(5, ge=3, description="Power p of the polynomial cutoff.")
    apply_cutoff: bool = Field(
        True, description="Radial functions are cut off. false: the radial weights that the network makes of them are."
    )
    distance_transform: Literal["none", "Agnesi", "Soft"] = Field(
        "none", description="Transform of distances, by covalent radii, before the radial basis."
    )
    pair_repulsion: bool = Field(
        False, description="Add the ZBL repulsion of nuclei closer than the sum of their covalent radii, and than the cutoff."
    )
    num_interactions: int = Field(2, ge=1, description="Message-passing layers.")
    l_max: int = Field(3, ge=0, description="Highest degree of the spherical harmonics.")
    correlation: int | tuple[int, ...] = Field(
        3, description="Correlation order of the product basis, 1 to 4; one number, or one per layer."
    )
    interaction: str = Field("RealAgnosticResidual", description="Block of the other layers.")
    radial_mlp: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (64, 64, 64), description="Hidden widths of the radial network; that of RealAgnosticAttResidual has its own, 256 each."
    )
    edge_irreps: str | None = Field(
        None,
        description="Irreps of what atoms send to their neighbours, such as the hidden irreps with fewer channels; those that the hidden "
        "irreps lack are zero, and only count in normalisations. null: the hidden irreps.",
    )
    edge_irreps_first_scalar: bool = Field(False, description="The first layer sends as many scalars as edge_irreps have.")
    keep_last_layer_irreps: bool = Field(
        False,
        description="The last layer makes all hidden irreps, for descriptors, and not only those that the last readout reads, which alone "
        "are trained.",
    )
    so3: bool = Field(
        False, description="No parity: harmonics are 0e, 1e, 2e, ..., and hidden irreps too. Mirror images then have different energies."
    )
    agnostic_product: bool = Field(False, description="The product basis has the same weights for all elements.")
    readout: Literal["NonLinear", "NonLinearBias"] = Field(
        "NonLinear",
        description="Last readout of two layers and more: one hidden layer, or two with biases. That of a single layer is linear.",
    )
    readout_irreps: str = Field(
        "16x0e",
        description="Hidden layer of the last, non-linear readout, for each head; a model of dipoles needs vectors there too, such as "
        "16x0e + 16x1o.",
    )
    last_readout_only: bool = Field(False, description="Only the last layer adds to the energy.")
    joint_embedding: tuple[EmbeddingConfig, ...] = Field(
        (), description="Inputs beside the structure, such as total_charge, that are added to the features of the elements."
    )
    embedding_readout: bool = Field(False, description="The features that joint_embedding makes add to the energy.")
    gate: Literal["silu", "tanh", "abs", "none"] = Field("silu", description="Non-linearity of the last readout.")
    contraction_basis: Literal["full", "reduced"] = Field(
        "full",
        description="Paths of the product basis that carry weights: every coupling tree, as mace_run_train, or an orthonormal basis.",
    )
