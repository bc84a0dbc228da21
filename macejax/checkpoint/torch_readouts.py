"""Readouts of a mace-torch module -> fields of ModelConfig."""

from __future__ import annotations

from typing import Any

from macejax.checkpoint.torch_basis import TorchImportError

MOMENTS = {"AtomicDipolesMACE": "Dipole", "EnergyDipolesMACE": "Dipole", "AtomicDielectricMACE": "DipolePolar"}  # their readouts
READOUTS = {"NonLinearReadoutBlock": "NonLinear", "NonLinearBiasReadoutBlock": "NonLinearBias"}
GATES = ("silu", "tanh", "abs")


def read_readouts(module: Any) -> dict[str, Any]:
    """The fields of ModelConfig that say what the readouts of a mace-torch module are.

    Raises:
      TorchImportError: they are others than macejax has.
    """
    if type(module).__name__ in MOMENTS:
        return _readouts_of_moments(module)
    readouts, layers = list(module.readouts), len(module.interactions)
    only_last = layers > 1 and len(readouts) == 1
    names = [type(readout).__name__ for readout in readouts]
    linear = 0 if only_last else layers - 1 if layers > 1 else 1
    if names[:linear] != ["LinearReadoutBlock"] * linear or len(names) != linear + (layers > 1):
        raise TorchImportError(f"the readouts are {names}, where macejax has linear ones for {layers} layers but the last.")
    if layers == 1:
        return {}
    last = readouts[-1]
    if names[-1] not in READOUTS:
        raise TorchImportError(f"the last readout is a {names[-1]}, where macejax has {', '.join(READOUTS)}.")
    heads = len(getattr(module, "heads", None) or ("Default",))
    return {
        "readout": READOUTS[names[-1]],
        "readout_irreps": f"{last.hidden_irreps.dim // heads}x0e",
        "gate": _gate(last),
        "last_readout_only": only_last,
    }


def _readouts_of_moments(module: Any) -> dict[str, Any]:
    """The fields of the readouts of a model of dipoles."""
    readouts, kind = list(module.readouts), MOMENTS[type(module).__name__]
    names = [type(readout).__name__ for readout in readouts]
    several = len(module.interactions) > 1
    expected = [f"Linear{kind}ReadoutBlock"] * (len(module.interactions) - several) + [f"NonLinear{kind}ReadoutBlock"] * several
    if names != expected:
        raise TorchImportError(f"the readouts are {names}, where macejax has {expected}.")
    if kind == "DipolePolar" and not getattr(module, "use_polarizability", True):
        raise TorchImportError("the module has no polarizability (use_polarizability=False), and mace-torch gives it a wrong dipole.")
    if not several:
        return {}
    return {"readout_irreps": spaced(readouts[-1].hidden_irreps), "gate": _gate_name(_acts_of_gate(readouts[-1].equivariant_nonlin))}


def _acts_of_gate(nonlinearity: Any) -> list[Any]:
    """Functions of a gated non-linearity: mace-torch's own, or e3nn's, which it used before."""
    if not hasattr(nonlinearity, "act_gates"):
        return [act for act in (nonlinearity._act_scalar, nonlinearity._act_gate) if act is not None]
    return [act.f for part in (nonlinearity.act_scalars, nonlinearity.act_gates) for act in part.acts if act is not None]


def degrees(irreps: Any) -> list[str]:
    """Irreps of e3nn, one by one."""
    return str(irreps).replace(" ", "").split("+")


def spaced(irreps: Any) -> str:
    """Irreps of e3nn as macejax writes them."""
    return " + ".join(term if "x" in term else f"1x{term}" for term in degrees(irreps))


def _gate(readout: Any) -> str:
    return _gate_name([act.f for act in readout.non_linearity.acts if act is not None])


def _gate_name(functions: list[Any]) -> str:
    if not functions:
        return "none"
    name = getattr(functions[0], "__name__", type(functions[0]).__name__)
    if name not in GATES:
        raise TorchImportError(f"the readout has the non-linearity {name}, where macejax has {', '.join(GATES)} or none.")
    return name
