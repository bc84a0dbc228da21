"""Which irreps live where in a model: what the constructor of a MACE decides before any parameter exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import e3nn_jax as e3nn

from macejax.config import ModelConfig
from macejax.model.coupling import convolution_paths, irrep_order
from macejax.model.linear import irreps_of
from macejax.ops.convolution import Path


def harmonics(config: ModelConfig) -> tuple[str, ...]:
    """Irreps of the spherical harmonics: 0e, 1o, 2e, ... l_max; without parity (`so3`) all even."""
    return tuple(f"{degree}{'e' if config.so3 else 'eo'[degree % 2]}" for degree in range(config.l_max + 1))


def message_irreps(config: ModelConfig, layer: int) -> tuple[str, ...]:
    """Irreps of the message of a layer: those of the harmonics; where the features have pseudoscalars, both parities of every degree."""
    natural = harmonics(config)
    if layer == 0 or "0o" not in irreps_of(config.hidden_irreps):
        return natural
    return tuple(sorted((f"{degree}{parity}" for degree in range(len(natural)) for parity in "eo"), key=irrep_order))


def layer_irreps(config: ModelConfig) -> list[str]:
    """Irreps of the features that each layer makes: hidden irreps, and in the last those alone that the last readout of the model reads,
    unless all are to be kept.
    """
    if config.keep_last_layer_irreps:
        return [config.hidden_irreps] * config.num_interactions
    if config.has_moments and (config.num_interactions == 1 or config.model == "AtomicDielectricMACE"):
        return [config.hidden_irreps] * config.num_interactions
    last = ["0e"] * config.has_energies + ["1o"] * config.has_moments
    return [config.hidden_irreps] * (config.num_interactions - 1) + [" + ".join(f"{num_channels(config)}x{irrep}" for irrep in last)]


def readout_outputs(config: ModelConfig) -> tuple[tuple[str, int], ...]:
    """Irreps that every readout makes for an atom, and how many: energies and dipoles; of AtomicDielectricMACE a charge and the trace of
    the polarizability, the dipole, and the rest of the polarizability.
    """
    if config.model == "AtomicDielectricMACE":
        return ("0e", 2), ("1o", 1), ("2e", 1)
    return (("0e", 1),) * config.has_energies + (("1o", 1),) * config.has_moments


def readout_hidden(config: ModelConfig) -> dict[str, int]:
    """Hidden layer of the last readout: multiplicities of those of the readout irreps that it can make use of."""
    kept = {irrep for irrep, _ in readout_outputs(config)}
    return {str(ir): mul for mul, ir in e3nn.Irreps(config.readout_irreps) if str(ir) in kept}


def edge_irreps(config: ModelConfig, layer: int) -> str:
    """Irreps of what an atom sends to its neighbours, in name: those of its features, or the `edge_irreps`."""
    if layer == 0:
        scalars = num_channels(config)
        if config.edge_irreps is not None and config.edge_irreps_first_scalar:
            scalars = e3nn.Irreps(config.edge_irreps).count("0e")
        return f"{scalars}x0e"
    return config.edge_irreps or config.hidden_irreps


def sent_irreps(config: ModelConfig, layer: int) -> str:
    """Irreps of what an atom sends to its neighbours: of `edge_irreps` those that its features have, for a linear map makes no others."""
    made = irreps_of(config.hidden_irreps) if layer else ("0e",)
    return " + ".join(f"{mul}x{ir}" for mul, ir in e3nn.Irreps(edge_irreps(config, layer)) if str(ir) in made)


def sent_paths(config: ModelConfig, layer: int) -> tuple[list[Path], list[int]]:
    """Couplings of `edge_irreps` with the harmonics, and the places among them of those that are not zero."""
    named, sent = irreps_of(edge_irreps(config, layer)), irreps_of(sent_irreps(config, layer))
    paths = list(convolution_paths(named, harmonics(config), message_irreps(config, layer)))
    return paths, [place for place, path in enumerate(paths) if path.node in sent]


def silent_channels(config: ModelConfig, layer: int) -> tuple[tuple[str, int], ...]:
    """Irrep of a message -> channels of it that come from irreps which are named in `edge_irreps` and not sent."""
    paths, in_use = sent_paths(config, layer)
    counts = Counter(path.out for place, path in enumerate(paths) if place not in in_use)
    channels = e3nn.Irreps(sent_irreps(config, layer))[0].mul
    return tuple((irrep, count * channels) for irrep, count in counts.items())


def num_channels(config: ModelConfig) -> int:
    """Channels K of every irrep of the features."""
    return e3nn.Irreps(config.hidden_irreps)[0].mul


def correlations(config: ModelConfig) -> tuple[int, ...]:
    """Correlation order of each layer."""
    return (config.correlation,) * config.num_interactions if isinstance(config.correlation, int) else config.correlation


def block_names(config: ModelConfig) -> list[str]:
    """Name of the interaction block of each layer."""
    return [config.interaction_first] + [config.interaction] * (config.num_interactions - 1)


def has_readout(config: ModelConfig, layer: int) -> bool:
    """Whether a layer adds to the energy."""
    return layer == config.num_interactions - 1 or not config.last_readout_only


def check_irreps(config: ModelConfig) -> None:
    """Refuse irreps that no model can have.

    Raises:
      ValueError: says which, and why.
    """
    fields: Mapping[str, str | None] = {"hidden_irreps": config.hidden_irreps, "edge_irreps": config.edge_irreps}
    for field, irreps in fields.items():
        if irreps is None:
            continue
        try:
            parsed, names = e3nn.Irreps(irreps), irreps_of(irreps)
        except ValueError:
            raise ValueError(f"{field} {irreps!r} are no irreps: write them as 128x0e + 128x1o.") from None
        if len({mul for mul, _ in parsed}) != 1 or parsed[0].mul < 1 or len(set(names)) != len(names):
            raise ValueError(f"{field} {irreps!r} must have every irrep once, all with the same number of channels.")
        if names[0] != "0e" or list(names) != sorted(names, key=lambda name: int(name[:-1])):
            raise ValueError(f"{field} {irreps!r} must begin with 0e and go on in ascending degree.")
        if max(ir.l for _, ir in parsed) > config.l_max:
            raise ValueError(f"{field} {irreps!r} reach beyond l_max {config.l_max}: raise l_max or lower the irreps.")
    if config.edge_irreps_first_scalar and config.edge_irreps is None:
        raise ValueError("edge_irreps_first_scalar has no effect without edge_irreps: give them, or leave it out.")
    if config.keep_last_layer_irreps and (config.num_interactions == 1 or len(irreps_of(config.hidden_irreps)) == 1):
        raise ValueError("keep_last_layer_irreps has no effect on one layer, or on scalars: leave it out.")
    try:
        readout = e3nn.Irreps(config.readout_irreps)
    except ValueError:
        raise ValueError(f"readout_irreps {config.readout_irreps!r} are no irreps: write them as 16x0e.") from None
    if config.has_moments:
        _check_moments(config)
    elif readout.count("0e") != readout.dim or readout.dim == 0:
        raise ValueError(f"readout_irreps {config.readout_irreps!r} must be scalars, such as 16x0e.")
    if "RealAgnosticResidualNonLinear" in block_names(config) and "0o" in irreps_of(config.hidden_irreps):
        raise ValueError("RealAgnosticResidualNonLinear has no gate for pseudoscalars: hidden_irreps must not contain 0o.")


def _check_moments(config: ModelConfig) -> None:
    """What a model of dipoles and polarizabilities needs."""
    hidden, readout = irreps_of(config.hidden_irreps), irreps_of(config.readout_irreps)
    if len(hidden) < 2 or hidden != harmonics(config)[: len(hidden)]:
        raise ValueError(f"hidden_irreps {config.hidden_irreps!r} of {config.model} must be 0e, 1o, 2e, ..., at least up to 1o.")
    allowed = tuple(irrep for irrep, _ in readout_outputs(config)) if config.model != "AtomicDipolesMACE" else ("0e", "1o")
    if not readout or readout != tuple(irrep for irrep in allowed if irrep in readout):
        raise ValueError(f"readout_irreps {config.readout_irreps!r} of {config.model} must be some of {', '.join(allowed)}, each once.")
    if config.model == "AtomicDipolesMACE" and len(readout) > 1:
        raise ValueError("readout_irreps of AtomicDipolesMACE must be scalars or vectors (1o), not both: its last layer has no scalars.")
