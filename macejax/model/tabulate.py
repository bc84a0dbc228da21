"""A model whose radial networks are replaced by tables: for inference, about a tenth faster on a CPU, with an error that one chooses."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from macejax.config import ConfigError, ModelConfig, RadialTableConfig
from macejax.model.architecture import block_names
from macejax.model.mace import TABULATED
from macejax.model.model import Model
from macejax.model.radial import BASES, hidden_layers, polynomial_cutoff
from macejax.ops.spline import DEGREE, coefficients

TOLERANCE = 1e-5
# Errors of radial functions and slopes, of their rms, are held this much below the tolerance: in an atom's force, pairs cancel.
_RANK_MARGIN, _SLOPE_MARGIN = 100.0, 10.0
_FEWEST, _MOST = 64, 2048  # intervals
_FINE = 4 * _MOST  # intervals of the grid on which functions are looked at
_LENGTH = 0.1  # Angstrom, over which values and slopes count alike when functions are left out


def tabulate(model: Model, tolerance: float = TOLERANCE) -> Model:
    """The model with splines in place of its radial networks, for simulation: energies, forces, stress and further derivatives as before.

    A radial network is a function of the edge's length alone, so that its last hidden layer can be read from a table; and as those
    functions, 64 mostly, are nearly linearly dependent, fewer of them are kept, with a last layer to match. The splines have two continuous
    derivatives, at the cutoff too, where they vanish with both.

    Args:
      model: config and parameters, of blocks with a radial network of their own.
      tolerance: largest error of a force, relative to the rms force, that is aimed at: knots and functions are chosen by the errors of
        radial functions and of their slopes, with a margin. `macejax.precision_error(table, structures, "float64", exact=model)` measures
        it.

    Returns:
      A model like any other: it can be saved, and run wherever models run. It is not for training, and mace-torch has no such model.

    Raises:
      ConfigError: a model whose radial functions depend on more than a length, or a table already; a tolerance that no table reaches.
    """
    config = model.config
    _require_plain(config, tolerance)
    tree, dtype = model.params["params"], jax.tree.leaves(model.params)[0].dtype
    params = {name: jax.tree.map(lambda x: np.asarray(x, np.float64), part) for name, part in tree.items()}
    names = [f"interaction_{t}" for t in range(config.num_interactions)]
    last = f"layer{len(config.radial_mlp)}"
    reduced = [_fewer(_sample(config, params[name]), np.asarray(params[name]["radial_mlp"][last]), tolerance) for name in names]
    intervals = max(_intervals(config, functions, tolerance) for functions, _ in reduced)
    for name, (functions, last) in zip(names, reduced, strict=True):
        part = {key: value for key, value in params[name].items() if key not in ("radial_mlp", "density")}
        params[name] = {**part, "radial_table": {"coefficients": _table(config, functions, intervals), "last": last}}
    kept = tuple(last.shape[0] for _, last in reduced)
    new = config.model_copy(update={"radial_table": RadialTableConfig(intervals=intervals, functions=kept)})
    return Model(new, {**model.params, "params": jax.tree.map(lambda x: np.asarray(x, dtype), params)})


def _require_plain(config: ModelConfig, tolerance: float) -> None:
    if not 0 < tolerance < 1:
        raise ConfigError(f"tolerance must be between 0 and 1, not {tolerance}.")
    if config.radial_table is not None:
        raise ConfigError("the radial functions of this model are a table already.")
    if config.distance_transform != "none":
        raise ConfigError(
            f"no table can stand for radial functions of a {config.distance_transform} transform: they depend on the elements of an edge."
        )
    if others := sorted(set(block_names(config)) - set(TABULATED)):
        raise ConfigError(f"no table can stand for the radial network of {others[0]}: it reads more than the length of an edge.")


class _Sampled(NamedTuple):
    """Functions on a fine grid from 0 to the cutoff, [_FINE + 1, F] each."""

    values: np.ndarray
    slopes: np.ndarray  # per Angstrom
    curvatures: np.ndarray  # per Angstrom^2


def _sample(config: ModelConfig, params: Any) -> _Sampled:
    """The last hidden layer of a block's radial network, and after it, where the block has one, the argument of its density."""

    def functions(r: jax.Array, params: Any) -> jax.Array:
        radial = BASES[config.radial_basis](r, config.num_bessel, config.cutoff)
        if config.apply_cutoff:
            radial = radial * polynomial_cutoff(r, config.cutoff, config.cutoff_power)[..., None]
        layers = [params["radial_mlp"][f"layer{i}"] for i in range(len(config.radial_mlp))]
        found = [hidden_layers(layers, radial)]
        if "density" in params:
            found.append(radial @ params["density"]["weight"] * (1 / math.sqrt(radial.shape[-1])))
        return jnp.concatenate(found, axis=-1)

    def slopes(r: jax.Array, params: Any) -> jax.Array:
        return jax.jvp(lambda r: functions(r, params), (r,), (jnp.ones_like(r),))[1]

    def curvatures(r: jax.Array, params: Any) -> jax.Array:
        return jax.jvp(lambda r: slopes(r, params), (r,), (jnp.ones_like(r),))[1]

    with jax.enable_x64(True):
        r = np.linspace(0, config.cutoff, _FINE + 1)
        found = jax.jit(lambda r, params: [f(r, params) for f in (functions, slopes, curvatures)])(r, params)
        return _Sampled(*map(np.asarray, found))


def _fewer(functions: _Sampled, last: np.ndarray, tolerance: float) -> tuple[_Sampled, np.ndarray]:
    """Fewer functions and a last layer, whose product is the same within the tolerance, values and slopes alike.

    With last = L Q, Q of orthonormal rows, and the singular vectors V of (functions L), these are functions L V and V^T Q.
    """
    width, some = last.shape[0], slice(_FINE // 50, None, _FINE // 1024)  # atoms come no closer
    q, l = np.linalg.qr(last.T)
    both = np.concatenate([functions.values[some, :width], _LENGTH * functions.slopes[some, :width]]) @ l.T
    _, singular, v = np.linalg.svd(both, full_matrices=False)
    tail = np.sqrt(np.cumsum(singular[::-1] ** 2)[::-1])  # of what is left out, by the number kept
    kept = int(np.sum(tail > tolerance / _RANK_MARGIN * tail[0]))
    kept = min(4 * math.ceil(kept / 4), len(v))
    mix = l.T @ v[:kept].T
    return _Sampled(*(np.concatenate([x[:, :width] @ mix, x[:, width:]], axis=1) for x in functions)), v[:kept] @ q.T


def _intervals(config: ModelConfig, functions: _Sampled, tolerance: float) -> int:
    """The fewest intervals, a power of two, whose spline has slopes within the tolerance everywhere."""
    rms = np.sqrt(np.mean(functions.slopes**2))
    intervals = _FEWEST
    while intervals <= _MOST:
        step, stride = config.cutoff / intervals, _FINE // intervals
        table = _table(config, functions, intervals)[:-1]
        for quarter in (1, 2, 3):
            found = sum(power * (quarter / 4) ** (power - 1) * table[:, power] for power in range(1, DEGREE + 1)) / step
            if np.abs(found - functions.slopes[quarter * stride // 4 :: stride]).max() > tolerance / _SLOPE_MARGIN * rms:
                break
        else:
            return intervals
        intervals *= 2
    raise ConfigError(f"no table of {_MOST} intervals has an error of {tolerance}: allow more.")


def _table(config: ModelConfig, functions: _Sampled, intervals: int) -> np.ndarray:
    """The spline through values, slopes and curvatures at the knots; those that the cutoff function takes to 0 end as it does."""
    step = config.cutoff / intervals
    return coefficients(*(step**order * x[:: _FINE // intervals] for order, x in enumerate(functions)))
