"""An in-memory mace-torch module -> Model. macejax never imports torch here: the module is only asked for its attributes and arrays.

mace-torch stores flat weights, block after block in instruction order, each block row-major, and applies every normalisation in its forward
pass, as macejax does. The import is therefore a renaming and a reshape, with one exception: the columns of the product basis. They are
compared with the `U_matrix_*` buffers of the module; where they differ (a reduced basis, say) the weights are projected onto macejax's
reduced basis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import ase.data
import numpy as np
from pydantic import ValidationError

from macejax.checkpoint.torch_basis import TorchImportError, contraction_weights, take
from macejax.config import ModelConfig
from macejax.model.mace import Model
from macejax.model.radial import AGNESI, SOFT
from macejax.model.repulsion import COEFFICIENTS, LENGTH

BLOCKS = {
    f"{name}InteractionBlock": name
    for name in ("RealAgnostic", "RealAgnosticResidual", "RealAgnosticDensity", "RealAgnosticDensityResidual")
}
GATES = ("silu", "tanh", "abs")
PARTS = {  # attributes that only modules with a part which macejax lacks have
    "joint_embedding": "embeddings of charge, spin or other inputs",
    "embedding_readout": "an embedding readout",
}
SWITCHES = {  # switches of mace-torch and the value that macejax has
    "use_so3": (False, "irreps without parity"),
    "use_agnostic_product": (False, "a product basis without elements"),
    "use_last_readout_only": (False, "a readout of the last layer only"),
    "apply_cutoff": (True, "radial weights, instead of radial functions, that are cut off"),
}
CONSTANTS: dict[str, dict[str, Any]] = {"Agnesi": AGNESI, "Soft": SOFT, "ZBL": {"c": COEFFICIENTS, **LENGTH}}
FREQUENCIES = "radial_embedding.bessel_fn.bessel_weights"
FREQUENCY_TOLERANCE = 1e-6  # relative: modules trained in float32 carry rounded frequencies


def from_torch(module: Any) -> Model:
    """Config and parameters of a mace-torch module, such that its energies are reproduced to rounding.

    Args:
      module: instance of mace-torch's `MACE` or `ScaleShiftMACE` (Batatia et al., NeurIPS 2022), eager, weights in the layout of e3nn.

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
    unknown = sorted(name for name, value in module.named_parameters() if name in state and value.numel())
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
    hidden = _irreps(products[0].linear.irreps_out)
    blocks = [BLOCKS[type(block).__name__] for block in interactions]
    correlation = tuple(_same((len(c.weights) + 1 for c in p.symmetric_contractions.contractions), "correlation") for p in products)
    readout = module.readouts[-1]
    has_shift = type(module).__name__ == "ScaleShiftMACE"
    fields: dict[str, Any] = dict(
        model=type(module).__name__,
        elements=tuple(int(number) for number in module.atomic_numbers),
        e0s=tuple(_numpy(module.atomic_energies_fn.atomic_energies).ravel().tolist()),
        cutoff=float(module.r_max),
        num_bessel=len(module.radial_embedding.bessel_fn.bessel_weights),
        cutoff_power=int(module.radial_embedding.cutoff_fn.p),
        distance_transform=_transform(module),
        pair_repulsion=_has_repulsion(module),
        hidden_irreps=" + ".join(f"{mul}x{degree}{'eo'[degree % 2]}" for mul, degree in hidden),
        num_interactions=len(interactions),
        l_max=_irreps(module.spherical_harmonics.irreps_out)[-1][1],
        correlation=correlation[0] if len(set(correlation)) == 1 else correlation,
        interaction_first=blocks[0],
        interaction=_same(blocks[1:], "interaction block") if len(blocks) > 1 else "RealAgnosticResidual",
        radial_mlp=_same((tuple(block.conv_tp_weights.hs[1:-1]) for block in interactions), "radial network"),
        readout_irreps=f"{readout.hidden_irreps.dim}x0e" if hasattr(readout, "hidden_irreps") else "16x0e",
        gate=_gate(readout) if hasattr(readout, "hidden_irreps") else "silu",
        avg_num_neighbors=_same((float(block.avg_num_neighbors) for block in interactions), "avg_num_neighbors"),
        scale=_numpy(module.scale_shift.scale).item() if has_shift else 1.0,
        shift=_numpy(module.scale_shift.shift).item() if has_shift else 0.0,
    )
    try:
        return ModelConfig(**fields)
    except ValidationError as error:
        raise TorchImportError(f"macejax has no such model: {error}") from error


def to_params(config: ModelConfig, state: dict[str, np.ndarray], contractions: list[dict[str, dict[str, np.ndarray]]]) -> dict[str, Any]:
    """The parameter tree of macejax from flat weights by their mace-torch names.

    Args:
      config: architecture.
      state: arrays by name, weights or any quantity linear in them, such as their gradients; what is used is taken out of it.
      contractions: for each layer, irrep -> order -> weights [Z, P, K] of the product basis.
    """
    num_elements, hidden, edge = len(config.elements), _irreps(config.hidden_irreps), range(config.l_max + 1)
    channels, degrees, last = hidden[0][0], [degree for _, degree in hidden], config.num_interactions - 1
    square = (channels, channels)
    params: dict[str, Any] = {"node_embedding": {"weight": take(state, "node_embedding.linear.weight").reshape(num_elements, channels)}}
    for layer in range(config.num_interactions):
        inputs, outputs = (degrees if layer else [0]), (degrees if layer < last else degrees[:1])
        block = config.interaction if layer else config.interaction_first
        carried = edge if "Residual" not in block else [degree for degree in inputs if degree in outputs]
        name = f"interactions.{layer}"
        params[f"interaction_{layer}"] = {
            "linear_up": _blocks(state, f"{name}.linear_up.weight", inputs, lambda _: square),
            "radial_mlp": {f"layer{i}": take(state, f"{name}.conv_tp_weights.layer{i}.weight") for i in range(len(config.radial_mlp) + 1)},
            "linear": _blocks(
                state, f"{name}.linear.weight", edge, lambda out, ins=inputs: (_num_paths(ins, edge, out) * channels, channels)
            ),
            "skip": {
                key: weight.transpose(1, 0, 2)
                for key, weight in _blocks(state, f"{name}.skip_tp.weight", carried, lambda _: (channels, num_elements, channels)).items()
            },
        }
        if "Density" in block:
            params[f"interaction_{layer}"]["density"] = {"weight": take(state, f"{name}.density_fn.layer0.weight")}
        params[f"product_{layer}"] = {
            "contraction": contractions[layer],
            "linear": _blocks(state, f"products.{layer}.linear.weight", outputs, lambda _: square),
        }
        params[f"readout_{layer}"] = _readout(config, state, layer, channels)
    return params


def _readout(config: ModelConfig, state: dict[str, np.ndarray], layer: int, channels: int) -> dict[str, np.ndarray]:
    name = f"readouts.{layer}"
    if layer == 0 or layer < config.num_interactions - 1:
        return {"linear": take(state, f"{name}.linear.weight").reshape(channels, 1)}
    return {
        "linear_1": take(state, f"{name}.linear_1.weight").reshape(channels, -1),
        "linear_2": take(state, f"{name}.linear_2.weight").reshape(-1, 1),
    }


def _blocks(state: dict[str, np.ndarray], name: str, degrees: Iterable[int], shape: Any) -> dict[str, np.ndarray]:
    """A flat weight cut into one array per irrep, in order; `shape` gives the shape for a degree."""
    flat, start, blocks = take(state, name).ravel(), 0, {}
    for degree in degrees:
        size = math.prod(shape(degree))
        blocks[_key(degree)] = flat[start : start + size].reshape(shape(degree))
        start += size
    if start != flat.size:
        raise TorchImportError(f"{name} has {flat.size} weights where macejax has {start}: the module is wired differently.")
    return blocks


def _num_paths(inputs: Iterable[int], edge: Iterable[int], out: int) -> int:
    """Paths of node features (x) spherical harmonics into degree `out`; natural parity allows those of even l1 + l2 + l3."""
    return sum(abs(l1 - l2) <= out <= l1 + l2 and (l1 + l2 + out) % 2 == 0 for l1 in inputs for l2 in edge)


def _refuse_foreign_parts(module: Any) -> None:
    """One sentence for each thing that macejax does not have."""
    kind = type(module).__name__
    if kind not in ("MACE", "ScaleShiftMACE"):
        raise TorchImportError(f"from_torch takes an eager MACE or ScaleShiftMACE of mace-torch, not {kind}.")
    for name, part in PARTS.items():
        if hasattr(module, name):
            raise TorchImportError(f"the module has {part} ({name}), which macejax does not have.")
    owners = (module, module.radial_embedding, *module.products, *module.interactions)
    for name, (ours, part) in SWITCHES.items():
        if any(getattr(owner, name, ours) != ours for owner in owners):
            raise TorchImportError(f"the module has {part} ({name}={not ours}), which macejax does not have.")
    if len(getattr(module, "heads", ["Default"])) > 1:
        raise TorchImportError(f"the module has several heads ({', '.join(module.heads)}); extract one with mace_select_head.")
    for block in (*module.interactions, *module.products):
        contraction = getattr(block, "symmetric_contractions", None)
        foreign = contraction is not None and not hasattr(contraction, "contractions")
        if foreign or getattr(getattr(block, "cueq_config", None), "enabled", False):
            raise TorchImportError("the module keeps its weights in cuequivariance's layout; convert it with mace_cueq_to_e3nn.")
    _refuse_foreign_blocks(module)
    _refuse_foreign_irreps(module)


def _refuse_foreign_blocks(module: Any) -> None:
    for block in module.interactions:
        if type(block).__name__ not in BLOCKS:
            raise TorchImportError(f"interaction block {type(block).__name__} is not one of macejax's: {', '.join(BLOCKS)}.")
        if "edge_irreps" in vars(block) and _irreps(block.edge_irreps) != _irreps(block.node_feats_irreps):
            raise TorchImportError(
                f"the module has edge irreps {block.edge_irreps} that differ from its node irreps, which macejax does not have."
            )
    radial = module.radial_embedding
    if type(radial.bessel_fn).__name__ != "BesselBasis":
        raise TorchImportError(f"radial basis {type(radial.bessel_fn).__name__} is not macejax's, BesselBasis.")
    frequencies = _numpy(radial.bessel_fn.bessel_weights)
    expected = np.arange(1, len(frequencies) + 1) * math.pi / float(module.r_max)
    if not np.allclose(frequencies, expected, rtol=FREQUENCY_TOLERANCE, atol=0):
        raise TorchImportError(f"the Bessel frequencies ({FREQUENCIES}) were trained away from n pi / cutoff, which macejax does not have.")
    last = "LinearReadoutBlock" if len(module.interactions) == 1 else "NonLinearReadoutBlock"
    expected_readouts = ["LinearReadoutBlock"] * (len(module.interactions) - 1) + [last]
    if [type(readout).__name__ for readout in module.readouts] != expected_readouts:
        raise TorchImportError(f"the readouts are {[type(r).__name__ for r in module.readouts]}, where macejax has {expected_readouts}.")


def _transform(module: Any) -> str:
    transform = getattr(module.radial_embedding, "distance_transform", None)
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
    """Constants that were trained, or given, are not macejax's; those of a module in float32 are rounded."""
    expected = {**CONSTANTS[name], "covalent_radii": ase.data.covalent_radii}
    for key, value in expected.items():
        found = _numpy(getattr(part, key))
        if found.shape != np.shape(value) or not np.allclose(found, value, rtol=FREQUENCY_TOLERANCE, atol=0):
            raise TorchImportError(f"{type(part).__name__}.{key} of the module is not the usual one, which is the only one macejax has.")


def _refuse_foreign_irreps(module: Any) -> None:
    outputs = [_irreps(product.linear.irreps_out) for product in module.products]
    hidden = outputs[0]
    if (
        len({mul for mul, _ in hidden}) != 1
        or [degree for _, degree in hidden] != sorted({degree for _, degree in hidden})
        or hidden[0][1] != 0
    ):
        raise TorchImportError(
            f"hidden irreps {module.products[0].linear.irreps_out} are not scalars first, ascending, with equal multiplicities."
        )
    edge = _irreps(module.spherical_harmonics.irreps_out)
    if [degree for _, degree in edge] != list(range(len(edge))) or hidden[-1][1] > edge[-1][1]:
        raise TorchImportError(
            f"spherical harmonics {module.spherical_harmonics.irreps_out} are not those of every degree up to an l_max that reaches the "
            f"hidden irreps {module.products[0].linear.irreps_out}."
        )
    if len(outputs) > 1 and (outputs[-1] != hidden[:1] or any(irreps != hidden for irreps in outputs[:-1])):
        raise TorchImportError(
            f"the layers put out {outputs}, where macejax has the same irreps in each but the last, and scalars in that."
        )


def _irreps(irreps: Any) -> list[tuple[int, int]]:
    """(multiplicity, degree) of irreps written as '8x0e+8x1o'; only natural parity passes."""
    pairs = []
    for term in str(irreps).replace(" ", "").split("+"):
        multiplicity, irrep = term.split("x") if "x" in term else ("1", term)
        if irrep[-1] != "eo"[int(irrep[:-1]) % 2]:
            raise TorchImportError(f"irreps {irreps} are not of natural parity ({irrep}), which macejax does not have.")
        pairs.append((int(multiplicity), int(irrep[:-1])))
    return pairs


def _gate(readout: Any) -> str:
    acts = [act for act in readout.non_linearity.acts if act is not None]
    if not acts:
        return "none"
    name = getattr(acts[0].f, "__name__", type(acts[0].f).__name__)
    if name not in GATES:
        raise TorchImportError(f"the readout has the non-linearity {name}, where macejax has {', '.join(GATES)} or none.")
    return name


def _same(values: Iterable[Any], what: str) -> Any:
    values = list(values)
    if any(value != values[0] for value in values):
        raise TorchImportError(f"the blocks of the module differ in {what} ({values}), which macejax does not have.")
    return values[0]


def _key(degree: int) -> str:
    return f"{degree}{'eo'[degree % 2]}"


def _numpy(tensor: Any) -> np.ndarray:
    """A copy: torch's own view would change when the module is trained on."""
    return np.array(tensor.detach().cpu().numpy())
