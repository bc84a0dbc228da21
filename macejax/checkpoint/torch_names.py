"""Where the weights of mace-torch are in macejax's parameters: one table, read for import and for export.

mace-torch stores flat weights, block after block in instruction order, each block row-major, and applies every normalisation in its forward
pass, as macejax does. Both ways are therefore a renaming and a reshape. The weights of the product basis are not here: `torch_basis`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import e3nn_jax as e3nn
import jax
import numpy as np

from macejax.checkpoint.torch_basis import TorchImportError, take
from macejax.config import EmbeddingConfig, ModelConfig
from macejax.model.architecture import (
    block_names,
    edge_irreps,
    has_readout,
    layer_irreps,
    message_irreps,
    num_channels,
    readout_hidden,
    readout_outputs,
    sent_irreps,
    sent_paths,
)
from macejax.model.attention import DOWN, HIDDEN
from macejax.model.linear import irreps_of
from macejax.model.nonlinear import DENSITY_WIDTHS


class Part(NamedTuple):
    """One parameter of macejax, as it lies in a weight of mace-torch."""

    path: tuple[str, ...]
    shape: tuple[int, ...]  # there
    axes: tuple[int, ...] | None = None  # transposition from there to here
    kept: tuple[int, Sequence[int]] | None = None  # axis there and places on it: the others, which have no effect, are not here

    @property
    def is_here(self) -> bool:
        """Whether any of it is."""
        return self.kept is None or len(self.kept[1]) > 0

    def here(self, array: np.ndarray) -> np.ndarray:
        """From there to here."""
        array = array if self.kept is None else array.take(self.kept[1], self.kept[0])
        return array if self.axes is None else array.transpose(self.axes)

    def there(self, array: np.ndarray) -> np.ndarray:
        """From here to there: what is not here is 0."""
        array = array if self.axes is None else array.transpose(np.argsort(self.axes))
        if self.kept is None:
            return array
        whole = np.zeros(self.shape, array.dtype)
        np.moveaxis(whole, self.kept[0], 0)[list(self.kept[1])] = np.moveaxis(array, self.kept[0], 0)
        return whole


class Weight(NamedTuple):
    """One weight of mace-torch: parts one after the other, or one part in its own shape."""

    name: str
    parts: tuple[Part, ...]
    flat: bool = False


def to_params(config: ModelConfig, state: dict[str, np.ndarray], contractions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameter tree of macejax from weights by their mace-torch names.

    Args:
      config: architecture.
      state: arrays by name, weights or any quantity linear in them, such as their gradients; what is used is taken out of it.
      contractions: for each layer, irrep -> degree -> weights [Z, P, K] of the product basis.

    Raises:
      TorchImportError: a weight is missing, or has another size than macejax's.
    """
    params: dict[str, Any] = {}
    for weight in weights(config):
        flat, start = take(state, weight.name).ravel(), 0
        size = sum(math.prod(part.shape) for part in weight.parts)
        if size != flat.size:
            raise TorchImportError(f"{weight.name} has {flat.size} weights where macejax has {size}: the module is wired differently.")
        for part in weight.parts:
            end = start + math.prod(part.shape)
            if part.is_here:
                _put(params, part.path, part.here(flat[start:end].reshape(part.shape)))
            start = end
    for layer, contraction in enumerate(contractions):
        params[f"product_{layer}"]["contraction"] = contraction
    return params


def to_state(config: ModelConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Weights by their mace-torch names, in its shapes, but for those of the product basis: the inverse of `to_params`."""
    params, state = jax.tree.map(np.asarray, params), {}
    dtype = jax.tree.leaves(params)[0].dtype
    for weight in weights(config):
        arrays = [part.there(_get(params, part.path)) if part.is_here else np.zeros(part.shape, dtype) for part in weight.parts]
        state[weight.name] = np.concatenate([array.ravel() for array in arrays]) if weight.flat else arrays[0]
    return state


def weights(config: ModelConfig) -> Iterator[Weight]:
    """Every weight of the mace-torch module of a configuration, but for those of the product basis."""
    channels, num_elements, num_heads = num_channels(config), len(config.elements), len(config.heads)
    yield _flat("node_embedding.linear.weight", Part(("node_embedding", "weight"), (num_elements, channels)))
    for spec in config.joint_embedding:
        yield from _embedding(spec)
    if config.joint_embedding:
        total = sum(spec.emb_dim for spec in config.joint_embedding)
        yield _affine("joint_embedding.project.0.weight", ("joint_embedding", "project"), total, channels)
    if config.embedding_readout:
        yield _flat("embedding_readout.linear.weight", Part(("embedding_readout", "linear"), (channels, num_heads)))
    readouts = 0
    for layer, irreps in enumerate(layer_irreps(config)):
        yield from _interaction(config, layer)
        parts = [Part((f"product_{layer}", "linear", irrep), (channels, channels)) for irrep in irreps_of(irreps)]
        yield _flat(f"products.{layer}.linear.weight", *parts)
        if has_readout(config, layer):
            yield from _readout(config, layer, f"readouts.{readouts}")
            readouts += 1


def _interaction(config: ModelConfig, layer: int) -> Iterator[Weight]:
    channels, num_elements = num_channels(config), len(config.elements)
    block, name, here = block_names(config)[layer], f"interactions.{layer}", f"interaction_{layer}"
    inputs = irreps_of(layer_irreps(config)[layer - 1]) if layer else ("0e",)
    outputs, message, sent = irreps_of(layer_irreps(config)[layer]), message_irreps(config, layer), sent_irreps(config, layer)
    sent_channels = e3nn.Irreps(sent)[0].mul
    paths, in_use = sent_paths(config, layer)
    columns = _channels_of(in_use, sent_channels) if len(in_use) < len(paths) else None  # of the radial weights
    of_output = {irrep: [place for place, path in enumerate(paths) if path.out == irrep] for irrep in message}
    kept = [irrep for irrep in inputs if irrep in outputs]
    nonlinear, attention = "NonLinear" in block, "Att" in block

    def of_messages(there: str, widths: Mapping[str, int]) -> Weight:
        """A linear map of the messages' paths."""
        parts = []
        for irrep, places in of_output.items():
            rows = None if columns is None else (0, _channels_of([k for k, place in enumerate(places) if place in in_use], sent_channels))
            if places:
                parts.append(Part((here, there, irrep), (len(places) * sent_channels, widths[irrep]), kept=rows))
        return _flat(f"{name}.{there}.weight", *parts)

    def linear(there: str, ours: str, shapes: Mapping[str, tuple[int, ...]], axes: tuple[int, ...] | None = None) -> Weight:
        return _flat(f"{name}.{there}.weight", *(Part((here, ours, irrep), shape, axes) for irrep, shape in shapes.items()))

    yield linear("linear_up", "linear_up", {irrep: (channels, sent_channels) for irrep in inputs if irrep in irreps_of(sent)})
    if nonlinear:
        widths = {irrep: channels * (len(message) if irrep == "0e" else 1) for irrep in message}
        embedded = config.num_bessel + 2 * channels
        for ours in ("source_embedding", "target_embedding"):
            yield _flat(f"{name}.{ours}.weight", Part((here, ours), (num_elements, channels)))
        hidden = (embedded, *config.radial_mlp, len(paths) * sent_channels)
        yield from _normed_network(f"{name}.conv_tp_weights", (here, "radial_mlp"), hidden, columns)
        yield from _normed_network(f"{name}.density_fn", (here, "density"), (embedded, *DENSITY_WIDTHS))
        yield of_messages("linear_1", widths)
        own = [irrep for irrep in irreps_of(edge_irreps(config, layer)) if irrep in widths]
        kept_own = {irrep: None if irrep in irreps_of(sent) else (0, ()) for irrep in own}
        shapes = {irrep: (sent_channels, widths[irrep]) for irrep in own}
        yield _flat(f"{name}.linear_res.weight", *(Part((here, "linear_res", i), shapes[i], kept=kept_own[i]) for i in own))
        yield linear("linear_2", "linear_2", {irrep: (channels, channels) for irrep in message})
        yield linear("skip_tp", "skip", {irrep: (channels, channels) for irrep in kept})
        yield from (Weight(f"{name}.{ours}", (Part((here, ours), ()),)) for ours in ("alpha", "beta"))
        return
    widths_mlp = (config.num_bessel + 2 * DOWN * attention, *(HIDDEN if attention else config.radial_mlp), len(paths) * sent_channels)
    for i, shape in enumerate(zip(widths_mlp[:-1], widths_mlp[1:], strict=True)):
        last = None if columns is None or i < len(widths_mlp) - 2 else (1, columns)
        yield Weight(f"{name}.conv_tp_weights.layer{i}.weight", (Part((here, "radial_mlp", f"layer{i}"), shape, kept=last),))
    yield of_messages("linear", dict.fromkeys(message, channels))
    if "Density" in block:
        yield Weight(f"{name}.density_fn.layer0.weight", (Part((here, "density", "weight"), (config.num_bessel, 1)),))
    if attention:
        yield linear("linear_down", "linear_down", {"0e": (channels, DOWN)})
        yield linear("skip_linear", "skip", {irrep: (channels, channels) for irrep in kept})
    else:
        carried = kept if "Residual" in block else list(message)
        yield linear("skip_tp", "skip", {irrep: (channels, num_elements, channels) for irrep in carried}, (1, 0, 2))


def _channels_of(places: Sequence[int], channels: int) -> list[int]:
    """Places of all channels of some paths, path-major."""
    return [place * channels + channel for place in places for channel in range(channels)]


def _normed_network(name: str, path: tuple[str, ...], widths: Sequence[int], columns: Sequence[int] | None = None) -> Iterator[Weight]:
    """An affine map and a normalisation in turn, of the last those columns that have an effect; torch counts the silu after them too."""
    for i, (fan, width) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        kept = None if columns is None or i < len(widths) - 2 else (0, columns)
        yield _affine(f"{name}.net.{3 * i}.weight", (*path, f"weight{i}"), fan, width, kept)
        yield _vector(f"{name}.net.{3 * i}.bias", (*path, f"bias{i}"), width, kept)
        if i < len(widths) - 2:
            yield _vector(f"{name}.net.{3 * i + 1}.weight", (*path, f"scale{i}"), width)
            yield _vector(f"{name}.net.{3 * i + 1}.bias", (*path, f"offset{i}"), width)


def _embedding(spec: EmbeddingConfig) -> Iterator[Weight]:
    name, here = f"joint_embedding.embedders.{spec.name}", "joint_embedding"
    if spec.type == "categorical":
        yield Weight(f"{name}.weight", (Part((here, f"{spec.name}_table"), (spec.num_classes, spec.emb_dim)),))
        return
    for i, fan in enumerate((spec.in_dim, spec.emb_dim)):
        yield _affine(f"{name}.{2 * i}.weight", (here, f"{spec.name}_weight{i}"), fan, spec.emb_dim)
        if spec.use_bias:
            yield _vector(f"{name}.{2 * i}.bias", (here, f"{spec.name}_bias{i}"), spec.emb_dim)


def _readout(config: ModelConfig, layer: int, name: str) -> Iterator[Weight]:
    if config.has_moments:
        yield from _readout_of_moments(config, layer, name)
        return
    channels, num_heads, here = num_channels(config), len(config.heads), f"readout_{layer}"
    if layer == 0 or layer < config.num_interactions - 1:
        yield _flat(f"{name}.linear.weight", Part((here, "linear"), (channels, num_heads)))
        return
    width = num_heads * e3nn.Irreps(config.readout_irreps).dim
    yield _flat(f"{name}.linear_1.weight", Part((here, "linear_1"), (channels, width)))
    yield _flat(f"{name}.linear_2.weight", Part((here, "linear_2"), (width, num_heads)))
    if config.readout == "NonLinearBias":
        yield _flat(f"{name}.linear_mid.weight", Part((here, "linear_mid"), (width, width)))
        yield _vector(f"{name}.linear_mid.bias", (here, "bias_mid"), width)
        yield _vector(f"{name}.linear_2.bias", (here, "bias_2"), num_heads)


def _readout_of_moments(config: ModelConfig, layer: int, name: str) -> Iterator[Weight]:
    features = dict.fromkeys(irreps_of(layer_irreps(config)[layer]), num_channels(config))
    outputs, hidden, here = dict(readout_outputs(config)), readout_hidden(config), f"readout_{layer}"

    def linear(ours: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Iterator[Weight]:
        parts = [Part((here, ours, irrep), (fan, outputs[irrep])) for irrep, fan in inputs.items() if irrep in outputs]
        if parts:
            yield _flat(f"{name}.{ours}.weight", *parts)

    if not 0 < layer == config.num_interactions - 1:
        yield from linear("linear", features, outputs)
        return
    gates = sum(width for irrep, width in hidden.items() if irrep != "0e")
    first = {"0e": hidden.get("0e", 0) + gates} | {irrep: width for irrep, width in hidden.items() if irrep != "0e"}
    if hidden:
        yield from linear("linear_1", features, first)
        yield from linear("linear_2", hidden, outputs)


def _flat(name: str, *parts: Part) -> Weight:
    return Weight(name, parts, flat=True)


def _affine(name: str, path: tuple[str, ...], fan: int, width: int, kept: tuple[int, Sequence[int]] | None = None) -> Weight:
    return Weight(name, (Part(path, (width, fan), (1, 0), kept),))


def _vector(name: str, path: tuple[str, ...], width: int, kept: tuple[int, Sequence[int]] | None = None) -> Weight:
    return Weight(name, (Part(path, (width,), kept=kept),))


def _put(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _get(tree: Mapping[str, Any], path: tuple[str, ...]) -> np.ndarray:
    for key in path:
        tree = tree[key]
    return tree
