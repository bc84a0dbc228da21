"""What is timed: models, systems and kinds of work."""

from __future__ import annotations

from typing import Any, NamedTuple

CUTOFF, NEIGHBORS = 5.0, 20.0
MODELS: dict[str, dict[str, Any]] = {
    "L0": {"hidden": "128x0e"},
    "L1": {"hidden": "128x0e+128x1o"},
    "L2": {"hidden": "128x0e+128x1o+128x2e"},
    "96": {"hidden": "96x0e"},
    # Every other block, and the recipes of published models that need more than blocks.
    "agnostic": {"hidden": "128x0e+128x1o", "first": "RealAgnostic"},
    "density": {
        "hidden": "128x0e+128x1o",
        "first": "RealAgnosticDensity",
        "interaction": "RealAgnosticDensityResidual",
        "options": {"distance_transform": "Agnesi", "pair_repulsion": True},
    },
    "attention": {"hidden": "128x0e+128x1o", "interaction": "RealAgnosticAttResidual"},
    "nonlinear": {
        "hidden": "128x0e+128x1o",
        "first": "RealAgnosticResidualNonLinear",
        "interaction": "RealAgnosticResidualNonLinear",
        "options": {"apply_cutoff": False, "use_agnostic_product": True, "distance_transform": "Agnesi", "pair_repulsion": True},
    },
    "so3": {"hidden": "64x0e+64x1e", "options": {"use_so3": True}},
    "gaussian": {"hidden": "128x0e+128x1o", "options": {"radial_type": "gaussian", "distance_transform": "Soft"}},
    "edges": {"hidden": "128x0e+128x1o", "options": {"edge_irreps": "64x0e+64x1o+64x2e+64x3o", "use_edge_irreps_first": True}},
    "heads": {"hidden": "128x0e+128x1o", "heads": ["one", "two", "three"]},
    "dipoles": {"hidden": "128x0e+128x1o", "class": "EnergyDipolesMACE", "first": "RealAgnostic", "readout": "16x0e+16x1o"},
    "parity": {"hidden": "32x0e+32x0o+32x1o+32x1e", "options": {"max_ell": 2}},
}


class Case(NamedTuple):
    """One line of the table."""

    system: str
    model: str
    dtype: str = "float32"
    work: str = "forces"  # or "stress", which has forces too, or "step"
    peers: bool = True


PEERS = [
    Case("water-192", "L1"),
    Case("water-192", "L0"),
    Case("water-192", "L2"),
    Case("aspirin-20", "L1"),
    Case("silicon-64", "L1"),
    Case("aspirin-1", "L1"),
    Case("aspirin-10", "L1", work="step"),
    Case("water-1536", "L1"),
]
SIZES = [
    *(Case(f"silicon-{n}", "L0", peers=False) for n in (64, 512, 1000, 4096, 10648, 32768, 110592)),
    *(Case(f"water-{n}", "L1", peers=False) for n in (648, 12288)),
]
FURTHER = [
    Case("water-192", "96"),
    Case("water-192", "L1", work="stress"),
    Case("silicon-64", "L0"),
    Case("silicon-1000", "L0"),  # beyond, the others want 10 GB and more
    Case("alloy-2000", "L1", peers=False),
    Case("mixed", "L1"),
    Case("water-192", "L1", dtype="float64"),
    Case("water-192", "L1", work="step"),
]
# For a GPU: latency, throughput, capacity.
DEVICE = [
    Case("water-10125", "L1"),
    Case("water-192", "L1"),
    Case("water-1536", "L1"),
    Case("water-10125", "L0"),
    Case("water-10125", "L2"),
    Case("aspirin-10", "L1", work="step"),
    Case("silicon-216000", "L1", peers=False),
]
# In float32 mace-torch's own rounding is 3e-4 of the rms force with NonLinear blocks, more than is timed (README.md).
FAMILY = [
    *(Case("water-192", model) for model in ("agnostic", "density", "attention", "so3", "parity", "gaussian", "edges", "heads", "dipoles")),
    Case("water-192", "nonlinear", dtype="float64"),
]
SETS = {
    "family": FAMILY,
    "device": DEVICE,
    "quick": PEERS[3:6],
    "peers": PEERS,
    "sizes": SIZES,
    "further": FURTHER,
    "all": [*PEERS, *FURTHER, *FAMILY, *SIZES],
}


def config_of(model: dict[str, Any], elements: list[int]) -> Any:
    """The `macejax.ModelConfig` of an entry of MODELS, which has mace-torch's words."""
    import macejax

    ours = {
        "use_agnostic_product": "agnostic_product",
        "use_so3": "so3",
        "max_ell": "l_max",
        "radial_type": "radial_basis",
        "use_edge_irreps_first": "edge_irreps_first_scalar",
    }
    heads, zeros = tuple(model.get("heads", ("Default",))), (0.0,) * len(elements)
    return macejax.ModelConfig(
        model=model.get("class", "ScaleShiftMACE"),
        elements=elements,
        heads=heads,
        e0s=zeros if len(heads) == 1 else (zeros,) * len(heads),
        scale=1.0 if len(heads) == 1 else (1.0,) * len(heads),
        shift=0.0 if len(heads) == 1 else (0.0,) * len(heads),
        cutoff=CUTOFF,
        avg_num_neighbors=NEIGHBORS,
        hidden_irreps=model["hidden"],
        interaction_first=model.get("first", "RealAgnosticResidual"),
        interaction=model.get("interaction", "RealAgnosticResidual"),
        readout_irreps=model.get("readout", "16x0e"),
        **{ours.get(name, name): value for name, value in model.get("options", {}).items()},
    )
