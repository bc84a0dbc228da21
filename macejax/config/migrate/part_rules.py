"""Rules of flags that train parts of a model at rates of their own, or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from macejax.config.migrate.flags import Arguments, Note, Outcome, Refusal, Set
from macejax.config.migrate.training_rules import stage_two_start

# Part of the model -> the --freeze from which on it is frozen.
FREEZES = {"embedding": 1, "interactions": 5, "products": 6, "readouts": 7}


def lr_factors(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--lr_params_factors."""
    try:
        factors = {name: float(factor) for name, factor in json.loads(arguments.values[flag]).items()}
        if not all(0 <= factor < math.inf for factor in factors.values()):
            raise ValueError
    except (ValueError, AttributeError, TypeError):
        raise ValueError("must be a JSON table of numbers that are not negative") from None
    given = {part: factors.pop(f"{part}_lr_factor", 1.0) for part in FREEZES}
    for name in factors:
        yield Note(f"{name!r} is no part of the model, as in mace_run_train, which ignores it.")
    given = {part: factor for part, factor in given.items() if factor != 1 and not _is_frozen(part, arguments)}
    if all(_is_frozen(part, arguments) or given.get(part) == 0 for part in FREEZES) and given:
        yield Refusal("it freezes all of the model: there is nothing to train.")
        return
    for part, factor in given.items():
        yield Set(f"optimizer.rate_factors.{part}", factor)
    if given and stage_two_start(arguments) is not None:
        yield Note("the factors act in the second stage too, in which mace_run_train trains all parts with one learning rate.")
    if 0 in given.values():
        yield Note("gradients of a part with the factor 0 are not in the norm by which others are clipped; in mace_run_train they are.")
    if "embedding" in given:
        yield from _embeddings(arguments)
    if "readouts" in given and arguments.values["use_embedding_readout"]:
        yield Note("the readout of the embeddings is meant too, which mace_run_train trains with --lr.")


def freeze(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--freeze, which freezes nothing up to 0."""
    frozen = [part for part in FREEZES if _is_frozen(part, arguments)]
    if frozen == list(FREEZES):
        yield Refusal("it freezes all of the model: there is nothing to train.")
        return
    for part in frozen:
        yield Set(f"optimizer.rate_factors.{part}", 0.0)
    if frozen:
        yield Note(f"freezes {' and '.join(frozen)}, of all layers, as in mace_run_train.")
        yield from _embeddings(arguments)
    elif flag in arguments.given:
        yield Note("without effect, as in mace_run_train, for it is not positive.")


def _is_frozen(part: str, arguments: Arguments) -> bool:
    return (arguments.values["freeze"] or 0) >= FREEZES[part]


def _embeddings(arguments: Arguments) -> Iterator[Outcome]:
    if arguments.values["embedding_specs"] is not None:
        yield Note("the embeddings of --embedding_specs are meant too, which mace_run_train goes on training.")
