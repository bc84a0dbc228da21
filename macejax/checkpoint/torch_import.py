"""An in-memory mace-torch module -> Model. macejax never imports torch here: the module is only asked for its attributes and arrays.

The weights are renamed and reshaped (`torch_names`), with one exception: the columns of the product basis. They are compared with the
`U_matrix_*` buffers of the module; where they differ (a reduced basis, say) the weights are projected onto macejax's reduced basis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import ase.data
import numpy as np

from macejax.checkpoint.long_range import CLASSES, REFUSED
from macejax.checkpoint.torch_basis import TorchImportError, contraction_weights
from macejax.checkpoint.torch_names import to_params
from macejax.checkpoint.torch_readouts import degrees, read_readouts, spaced
from macejax.config import ModelConfig, in_a_sentence
from macejax.model.architecture import check_irreps
from macejax.model.mace import INTERACTIONS
from macejax.model.model import Model
from macejax.model.radial import AGNESI, SOFT
from macejax.model.repulsion import COEFFICIENTS, LENGTH

MODELS = ("MACE", "ScaleShiftMACE", "AtomicDipolesMACE", "EnergyDipolesMACE", "AtomicDielectricMACE")
BASES = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
CONSTANTS: dict[str, dict[str, Any]] = {"Agnesi": AGNESI, "Soft": SOFT, "ZBL": {"c": COEFFICIENTS, **LENGTH}}
ROUNDED = 1e-6  # relative: modules trained in float32 carry rounded constants
_SUFFIX = "InteractionBlock"
# Newer versions of mace-torch neither run such a module nor change it when they save it.
OLD = (
    "it was written by a mace-torch of 2022, before 0.3 (its products are named by irreps, or num_interactions is missing), whose layout "
    "newer versions have given up: take a newer file of this model, or train it again with mace-torch 0.3 or macejax."
)


def from_torch(module: Any) -> Model:
    """Config and parameters of a mace-torch module, such that its energies are reproduced to rounding.

    Args:
      module: instance of one of `MODELS` of mace-torch (Batatia et al., NeurIPS 2022), eager, weights in the layout of e3nn. The buffers
        dipole_mean, dipole_std, polarizability_mean and polarizability_std of AtomicDielectricMACE have no effect there, and are not kept.

    Returns:
      Model whose parameters are numpy arrays in the dtype of the module. Its product basis is the full one where that is the module's own,
      else the reduced one.

    Raises:
      TorchImportError: the module has a part that macejax does not have; the sentence names it.
    """
    config = read_config(module)
    state = {name: _numpy(value) for name, value in module.state_dict().items()}
    config, contractions = contraction_weights(config, state)
    params = {"params": to_params(config, state, contractions)}
    fixed = {*constants_of(config)}  # compared already; a module that was fine-tuned has some of them as parameters
    unknown = sorted(name for name, value in module.named_parameters() if name in state and name not in fixed and value.numel())
    if unknown:
        raise TorchImportError(f"macejax has no place for these parameters of the module: {', '.join(unknown)}.")
    return Model(config, params)


def read_config(module: Any) -> ModelConfig:
    """The ModelConfig of a mace-torch module, its product basis taken as the full one.

    Raises:
      TorchImportError: a part that macejax does not have.
    """
    _refuse_foreign_parts(module)
    products, interactions = list(module.products), list(module.interactions)
    correlation = tuple(_same((len(c.weights) + 1 for c in p.symmetric_contractions.contractions), "correlation") for p in products)
    has_shift = type(module).__name__ == "ScaleShiftMACE"
    scale, shift = (per_head(_numpy(getattr(module.scale_shift, name))) if has_shift else default for name, default in SCALE_SHIFT.items())
    fields: dict[str, Any] = dict(
        model=type(module).__name__,
        elements=tuple(int(number) for number in module.atomic_numbers),
        heads=tuple(getattr(module, "heads", None) or ("Default",)),
        e0s=_e0s(module),
        cutoff=float(module.r_max),
        hidden_irreps=spaced(products[0].linear.irreps_out),
        num_interactions=len(interactions),
        keep_last_layer_irreps=type(module).__name__ in ("MACE", "ScaleShiftMACE") and _keeps_irreps(products),
        l_max=len(degrees(module.spherical_harmonics.irreps_out)) - 1,
        so3="1e" in str(module.spherical_harmonics.irreps_out),
        correlation=correlation[0] if len(set(correlation)) == 1 else correlation,
        agnostic_product=_same((bool(getattr(product, "use_agnostic_product", False)) for product in products), "product basis"),
        avg_num_neighbors=_same((float(block.avg_num_neighbors) for block in interactions), "avg_num_neighbors"),
        scale=scale,
        shift=shift,
        pair_repulsion=_has_repulsion(module),
        **_radial(module.radial_embedding, float(module.r_max)),
        **_blocks(interactions),
        **read_readouts(module),
        **_embeddings(module),
    )
    try:
        config = ModelConfig(**fields)
        check_irreps(config)
    except ValueError as error:
        raise TorchImportError(f"macejax has no such model: {in_a_sentence(error)}") from error
    _refuse_other_shapes(module, config)
    return config


SCALE_SHIFT = {"scale": 1.0, "shift": 0.0}


def constants_of(config: ModelConfig) -> dict[str, Any]:
    """What a module of this architecture has as buffers, or as parameters: mace-torch's name -> the value that macejax computes with."""
    indices = np.arange(1, config.num_bessel + 1)
    constants: dict[str, Any] = {
        "bessel": {"radial_embedding.bessel_fn.bessel_weights": indices * math.pi / config.cutoff},
        "gaussian": {"radial_embedding.bessel_fn.gaussian_weights": np.linspace(0, config.cutoff, config.num_bessel)},
        "chebyshev": {"radial_embedding.bessel_fn.n": indices[None]},
    }[config.radial_basis]
    if config.distance_transform != "none":
        constants |= {f"radial_embedding.distance_transform.{name}": value for name, value in CONSTANTS[config.distance_transform].items()}
    if config.pair_repulsion:
        constants |= {f"pair_repulsion_fn.{name}": value for name, value in {**CONSTANTS["ZBL"], "p": config.cutoff_power}.items()}
    return constants


def per_head(values: np.ndarray) -> float | tuple[float, ...]:
    """Scale or shift of a buffer as a configuration has them."""
    values = values.ravel().tolist()
    return values[0] if len(values) == 1 else tuple(values)


def _e0s(module: Any) -> tuple[Any, ...]:
    if not hasattr(module, "atomic_energies_fn"):
        return (0.0,) * len(module.atomic_numbers)
    return rows_of(_numpy(module.atomic_energies_fn.atomic_energies))


def rows_of(table: np.ndarray) -> tuple[Any, ...]:
    """E0s of a buffer as a configuration has them."""
    rows = [tuple(row) for row in np.atleast_2d(table).tolist()]
    return rows[0] if len(rows) == 1 else tuple(rows)


def _radial(embedding: Any, cutoff: float) -> dict[str, Any]:
    """The fields of the radial embedding."""
    basis = embedding.bessel_fn
    kind = BASES.get(type(basis).__name__)
    if kind is None:
        raise TorchImportError(f"radial basis {type(basis).__name__} is not one of macejax's: {', '.join(BASES)}.")
    if kind == "bessel":
        num = len(basis.bessel_weights)
        _require(basis.bessel_weights, np.arange(1, num + 1) * math.pi / cutoff, "the Bessel frequencies (radial_embedding.bessel_fn)")
    elif kind == "gaussian":
        num = len(basis.gaussian_weights)
        _require(basis.gaussian_weights, np.linspace(0, cutoff, num), "the centres of the Gaussians (radial_embedding.bessel_fn)")
    else:
        num = int(basis.num_basis)
    return {
        "radial_basis": kind,
        "num_bessel": num,
        "cutoff_power": int(embedding.cutoff_fn.p),
        "apply_cutoff": bool(getattr(embedding, "apply_cutoff", True)),
        "distance_transform": _transform(embedding),
    }


def _blocks(interactions: list[Any]) -> dict[str, Any]:
    """The fields of the interaction blocks."""
    names = []
    for block in interactions:
        name = type(block).__name__.removesuffix(_SUFFIX)
        if name not in INTERACTIONS or not type(block).__name__.endswith(_SUFFIX):
            known = ", ".join(f"{name}{_SUFFIX}" for name in INTERACTIONS)
            raise TorchImportError(f"interaction block {type(block).__name__} is not one of macejax's: {known}.")
        names.append(name)
    others = interactions[1:]
    edge = {spaced(block.edge_irreps) for block in others if _differs(block)}
    first = interactions[0]
    return {
        "interaction_first": names[0],
        "interaction": _same(names[1:], "interaction block") if others else "RealAgnosticResidual",
        "radial_mlp": _radial_mlp(interactions, names),
        "edge_irreps": _same(edge, "edge irreps") if edge else None,
        "edge_irreps_first_scalar": bool(edge) and _differs(first),
    }


def _keeps_irreps(products: list[Any]) -> bool:
    """Whether the last layer makes more than the scalars that energies are read from."""
    made = spaced(products[-1].linear.irreps_out)
    return len(products) > 1 and "+" in made and made == spaced(products[0].linear.irreps_out)


def _differs(block: Any) -> bool:
    """Whether a block sends other irreps than it reads."""
    return "edge_irreps" in vars(block) and str(block.edge_irreps) != str(block.node_feats_irreps)


def _radial_mlp(interactions: list[Any], names: list[str]) -> tuple[int, ...]:
    widths = [tuple(block.conv_tp_weights.hs[1:-1]) for block, name in zip(interactions, names, strict=True) if "Att" not in name]
    return _same(widths, "radial network") if widths else (64, 64, 64)


def _embeddings(module: Any) -> dict[str, Any]:
    """The fields of inputs beside the structure."""
    if not hasattr(module, "joint_embedding"):
        return {}
    specs = [{"name": name, **dict(spec)} for name, spec in dict(module.embedding_specs).items()]
    fields = {"categorical": ("num_classes", "offset"), "continuous": ("in_dim", "use_bias")}
    kept = [
        {key: value for key, value in spec.items() if key in ("name", "type", "per", "emb_dim", *fields.get(spec.get("type"), ()))}
        for spec in specs
    ]
    return {"joint_embedding": tuple(kept), "embedding_readout": hasattr(module, "embedding_readout")}


def _refuse_foreign_parts(module: Any) -> None:
    """One sentence for each thing that macejax does not have."""
    kind = type(module).__name__
    if kind in CLASSES:
        raise TorchImportError(f"the module is a {kind}, a model with {REFUSED}.")
    if kind not in MODELS:
        raise TorchImportError(f"from_torch takes an eager {' or '.join(MODELS)} of mace-torch, not {kind}.")
    for block in (*module.interactions, *module.products):
        contraction = getattr(block, "symmetric_contractions", None)
        if type(getattr(contraction, "contractions", None)).__name__ == "ModuleDict":
            raise TorchImportError(OLD)
        foreign = contraction is not None and not hasattr(contraction, "contractions")
        if foreign or getattr(getattr(block, "cueq_config", None), "enabled", False):
            raise TorchImportError("the module keeps its weights in cuequivariance's layout; convert it with mace_cueq_to_e3nn.")


def _refuse_other_shapes(module: Any, config: ModelConfig) -> None:
    """The layers are as macejax makes them of the hidden irreps."""
    from macejax.model.architecture import harmonics, layer_irreps, message_irreps
    from macejax.model.linear import irreps_of

    found = [spaced(product.linear.irreps_out) for product in module.products]
    expected = layer_irreps(config)
    if [irreps_of(irreps) for irreps in found] != [irreps_of(irreps) for irreps in expected]:
        raise TorchImportError(f"the layers put out {found}, where macejax has {expected}: the same irreps, and scalars in the last.")
    edge = irreps_of(spaced(module.spherical_harmonics.irreps_out))
    if edge != harmonics(config):
        raise TorchImportError(f"spherical harmonics {module.spherical_harmonics.irreps_out} are not those of every degree up to an l_max.")
    for layer, block in enumerate(module.interactions):
        target = irreps_of(spaced(block.target_irreps))
        if target != message_irreps(config, layer):
            raise TorchImportError(f"layer {layer} has messages {block.target_irreps}, where macejax has {message_irreps(config, layer)}.")


def _transform(embedding: Any) -> str:
    transform = getattr(embedding, "distance_transform", None)
    if transform is None:
        return "none"
    name = type(transform).__name__.removesuffix("Transform")
    if name not in CONSTANTS:
        raise TorchImportError(f"the module has a distance transform ({type(transform).__name__}), which macejax does not have.")
    _require_constants(transform, name)
    return name


def _has_repulsion(module: Any) -> bool:
    repulsion = getattr(module, "pair_repulsion_fn", None)
    if repulsion is None:
        return False
    _require_constants(repulsion, "ZBL")
    if int(repulsion.p) != int(module.radial_embedding.cutoff_fn.p):
        raise TorchImportError(f"the ZBL repulsion is cut off with power {int(repulsion.p)}, the radial functions with another.")
    return True


def _require_constants(part: Any, name: str) -> None:
    for key, value in {**CONSTANTS[name], "covalent_radii": ase.data.covalent_radii}.items():
        _require(getattr(part, key), value, f"{type(part).__name__}.{key}")


def _require(found: Any, expected: Any, what: str) -> None:
    """Constants that were trained, or given, are not macejax's; those of a module in float32 are rounded."""
    found = _numpy(found)
    if found.shape != np.shape(expected) or not np.allclose(found, expected, rtol=ROUNDED, atol=ROUNDED * np.max(np.abs(expected))):
        raise TorchImportError(f"{what} of the module: not the usual ones, which are the only ones that macejax has.")


def _same(values: Iterable[Any], what: str) -> Any:
    values = list(values)
    if any(value != values[0] for value in values):
        raise TorchImportError(f"the blocks of the module differ in {what} ({values}), which macejax does not have.")
    return values[0]


def _numpy(tensor: Any) -> np.ndarray:
    """A copy: torch's own view would change when the module is trained on."""
    return np.array(tensor.detach().cpu().numpy())
