"""Rules of flags about the model that take more than a new name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from macejax.config.migrate.flags import Arguments, Note, Outcome, Refusal, Rule, Set
from macejax.config.migrate.literals import energies, integers, literal, read_json
from macejax.config.model import UNCUT, lost_irrep
from macejax.config.predicts import NOT_OF_MOMENTS
from macejax.config.start import OF_START

# Those of macejax.model.INTERACTIONS; a test compares them.
BLOCKS = (
    "RealAgnostic",
    "RealAgnosticResidual",
    "RealAgnosticDensity",
    "RealAgnosticDensityResidual",
    "RealAgnosticAttResidual",
    "RealAgnosticResidualNonLinear",
)
SUFFIX = "InteractionBlock"
DIPOLES = ("AtomicDipolesMACE", "EnergyDipolesMACE", "AtomicDielectricMACE")
OF_READOUTS = {  # irreps of --MLP_irreps, in this order; of AtomicDipolesMACE one of them
    "AtomicDipolesMACE": (("0e",), ("1o",)),
    "EnergyDipolesMACE": (("0e", "1o"),),
    "AtomicDielectricMACE": (("0e", "1o", "2e"),),
}
# Options that mace_run_train ignores for these models, and macejax refuses.
IGNORED = {kind: {f"model.{name}" for name in (*NOT_OF_MOMENTS, "scaling", "radial_basis", "radial_mlp")} for kind in DIPOLES}
# What these models replace every other first block by: the first of them.
FIRST_BLOCKS = {"MACE": ("RealAgnostic", "RealAgnosticDensity"), **dict.fromkeys(DIPOLES, ("RealAgnostic",))}
FIRST_OF_MODEL = {"ScaleShiftMACE": "RealAgnosticResidual", **dict.fromkeys(FIRST_BLOCKS, "RealAgnostic")}
OTHER_MODELS = {
    "BOTNet": "it is retired, in mace_run_train too",
    "ScaleShiftBOTNet": "it is retired, in mace_run_train too",
    "PolarMACE": "there are no charges and fields",
    "MACELES": "there is no latent Ewald summation",
}


def model(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--model."""
    value = arguments.values[name]
    if value in OTHER_MODELS:
        yield Refusal(f"macejax has no {value}: {OTHER_MODELS[value]}.")
    else:
        yield Set("model.model", value)


def interaction(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--interaction."""
    block = arguments.values[name].removesuffix(SUFFIX)
    yield _no_such_block(block) or Set("model.interaction", block)


def interaction_first(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--interaction_first, of which --model MACE only takes two, and the models of dipoles one."""
    asked, block, kind = arguments.values[name].removesuffix(SUFFIX), _first_block(arguments), arguments.values["model"]
    default = FIRST_OF_MODEL.get(kind, block)
    if block != asked and name in arguments.given:
        yield Note(f"mace_run_train replaces it by RealAgnosticInteractionBlock, for --model is {kind}; so does this configuration.")
    if refusal := _no_such_block(block):
        yield refusal
    elif block != default or name in arguments.given:
        yield Set("model.interaction_first", block)


def _first_block(arguments: Arguments) -> str:
    """The first block that the model gets."""
    block, kind = arguments.values["interaction_first"].removesuffix(SUFFIX), arguments.values["model"]
    return FIRST_OF_MODEL[kind] if kind in FIRST_BLOCKS and block not in FIRST_BLOCKS[kind] else block


def _no_such_block(block: str) -> Refusal | None:
    return None if block in BLOCKS else Refusal(f"macejax has no block {block}: it has {', '.join(BLOCKS)}.")


def hidden_irreps(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--hidden_irreps, which loses against --num_channels and --max_L where both are there, and wins against one of them."""
    irreps = arguments.values[name]
    if irreps is None:
        return
    if _size_wins(arguments):
        yield Note("mace_run_train uses --num_channels and --max_L where all three are given; so does this configuration.")
        return
    natural = [term[1:] for term in _terms(irreps)] == [f"{degree}{'eo'[degree % 2]}" for degree in range(len(_terms(irreps)))]
    if arguments.values["model"] in DIPOLES and not (natural and len(_terms(irreps)) > 1):
        yield Refusal(f"{irreps!r}: macejax makes dipoles of 0e, 1o, 2e, ..., at least up to 1o.")
        return
    yield _unfit(irreps, arguments.values["max_ell"]) or Set("model.hidden_irreps", irreps)


def edge_irreps(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--edge_irreps."""
    irreps = arguments.values[name]
    if irreps is None:
        return
    top = 1 if arguments.values["max_L"] is None else arguments.values["max_L"]
    parities = "ee" if arguments.values["use_so3"] else "eo"
    made = " + ".join(f"1x{degree}{parities[degree % 2]}" for degree in range(top + 1))
    hidden = made if _size_wins(arguments) else arguments.values["hidden_irreps"] or made
    if lost := lost_irrep(irreps, hidden):
        yield Refusal(f"{irreps!r}: features have {lost} in the other parity, and nothing would be sent of it.")
    else:
        yield _unfit(irreps, arguments.values["max_ell"]) or Set("model.edge_irreps", irreps)


def _terms(irreps: str) -> list[tuple[str, str, str]]:
    """(channels, degree, parity) of every irrep."""
    return re.findall(r"(\d+)\s*x\s*(\d+)([eo])", irreps)


def _unfit(irreps: str, top: int) -> Refusal | None:
    """Why macejax does not take these irreps."""
    found = _terms(irreps)
    degrees = [int(degree) for _, degree, _ in found]
    rest = re.sub(r"\d+\s*x\s*\d+[eo]|[\s+]", "", irreps)
    if not found or rest or len({term[1:] for term in found}) != len(found) or len({channels for channels, _, _ in found}) != 1:
        return Refusal(f"{irreps!r}: macejax takes every irrep once, all with the same number of channels, such as 128x0e + 128x1o.")
    if found[0][1:] != ("0", "e") or degrees != sorted(degrees):
        return Refusal(f"{irreps!r}: macejax takes irreps that begin with 0e and go on in ascending degree.")
    if max(degrees) > top:
        return Refusal(f"{irreps!r}: macejax takes no irreps beyond the degree {top} of --max_ell.")
    return None


def apply_cutoff(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--apply_cutoff, which two blocks cannot do without."""
    value = arguments.values[name]
    blocks = [arguments.values["interaction"].removesuffix(SUFFIX), _first_block(arguments)]
    if value and (uncut := [block for block in blocks if block in UNCUT]):
        yield Set("model.apply_cutoff", False)
        yield Note(f"with {uncut[0]} energies of mace_run_train jump at the cutoff unless it is False; it is False here.")
    else:
        yield Set("model.apply_cutoff", value)


def last_readout_only(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--use_last_readout_only."""
    if arguments.values[name] and arguments.values["num_interactions"] == 1:
        yield Refusal("a model of one layer would have no readout, in mace_run_train too: leave it out.")
    else:
        yield Set("model.last_readout_only", arguments.values[name])


def num_channels(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--num_channels."""
    if arguments.values["hidden_irreps"] is None or _size_wins(arguments):
        yield Set("model.num_channels", arguments.values[name])
    elif name in arguments.given:
        yield Note("without effect, as in mace_run_train: --hidden_irreps says it.")


def max_L(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--max_L."""
    value, top = arguments.values[name], arguments.values["max_ell"]
    if arguments.values["hidden_irreps"] is not None and not _size_wins(arguments):
        if name in arguments.given:
            yield Note("without effect, as in mace_run_train: --hidden_irreps says it.")
    elif value == 0 and arguments.values["model"] in DIPOLES:
        yield Refusal("dipoles are made of vectors: macejax takes no max_L of 0 for them.")
    elif (1 if value is None else value) > top:
        yield Refusal(f"macejax takes no max_L (here {1 if value is None else value}) beyond the degree {top} of --max_ell.")
    else:
        yield Set("model.max_L", value)


def _size_wins(arguments: Arguments) -> bool:
    return arguments.values["num_channels"] is not None and arguments.values["max_L"] is not None


def correlation(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--correlation."""
    value = arguments.values[name]
    yield Set("model.correlation", value) if 1 <= value <= 4 else Refusal(f"macejax takes a correlation from 1 to 4, not {value}.")


def readout_irreps(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--MLP_irreps."""
    value = arguments.values[name]
    if irreps := OF_READOUTS.get(arguments.values["model"]):
        parts = re.findall(r"\d+\s*x\s*(\d[eo])", value)
        plain = " + ".join(part.replace(" ", "") for part in value.split("+"))
        fits = (
            bool(parts)
            and re.fullmatch(r"(\d+x\d[eo]( \+ |$))+", plain)
            and any(parts == [i for i in set_ if i in parts] for set_ in irreps)
        )
        yield Set("model.readout_irreps", plain) if fits else Refusal(f"{value!r}: macejax does not take this for a model of dipoles.")
    elif re.fullmatch(r"\s*\d+\s*x\s*0e\s*", value):
        yield Set("model.readout_irreps", value.replace(" ", ""))
    else:
        yield Refusal(f"{value!r}: macejax takes scalars in the last readout, such as 16x0e.")


def neighbors(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--avg_num_neighbors, which is only heeded with --compute_avg_num_neighbors False."""
    if not arguments.values["compute_avg_num_neighbors"]:
        yield Set("model.avg_num_neighbors", arguments.values[name])
    elif name in arguments.given:
        yield Note(
            "without effect, as in mace_run_train: the average of the training set is used unless --compute_avg_num_neighbors is False."
        )


def scaling(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--scaling, which says whether there is a scale even where --std gives it."""
    if arguments.values["std"] is None or arguments.values[name] == "no_scaling":
        yield Set("model.scaling", arguments.values[name])
    elif name in arguments.given:
        yield Note("without effect, as in mace_run_train: --std says the scale.")


def std(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--std."""
    value = arguments.values[name]
    if value is None:
        return
    if arguments.values["scaling"] == "no_scaling":
        yield Note("without effect, as in mace_run_train: --scaling no_scaling sets the scale to 1.")
    else:
        yield Set("model.scale", value)


def mean(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--mean, which mace_run_train overwrites unless it has a standard deviation too."""
    values = arguments.values
    if values[name] is None:
        return
    if values["model"] == "MACE":
        yield Note("without effect, as in mace_run_train: with --model MACE the shift is 0.")
    elif values["std"] is None and values["scaling"] != "no_scaling":
        yield Note("without effect, as in mace_run_train, which computes the mean itself where --std is not given.")
    else:
        yield Set("model.shift", values[name])


def e0s(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--E0s."""
    value = arguments.values[name]
    if arguments.values["model"] in ("AtomicDipolesMACE", "AtomicDielectricMACE"):
        if name in arguments.given:
            yield Note(f"without effect, as in mace_run_train: {arguments.values['model']} predicts no energies.")
        return
    if value is None or str(value).lower() in ("isolated", "isolatedatom", "isolatedatoms"):
        yield Set("data.e0s", "isolated")
        return
    if str(value).lower() in OF_START:
        if arguments.values["foundation_model"] is None:
            yield Refusal(f"there is no --foundation_model, which {value!r} takes the energies from: give a table, or average.")
        else:
            yield Set("data.e0s", str(value).lower())
        return
    text = read_json(value) if str(value).endswith(".json") else value
    yield Set("data.e0s", "average" if str(value).lower() == "average" else energies(text))
    if name in arguments.given:
        yield Note(
            "mace_run_train ignores it where the training file has frames with config_type=IsolatedAtom; macejax uses it. "
            "Set data.e0s to isolated to use those frames."
        )


def statistics_file(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--statistics_file, of which mace_run_train takes elements, energies of isolated atoms and number of neighbours."""
    if arguments.values[name] is None:
        return
    found = read_json(arguments.values[name])
    try:
        elements, table, average = (found[key] for key in ("atomic_numbers", "atomic_energies", "avg_num_neighbors"))
    except (KeyError, TypeError):
        raise ValueError(f"{arguments.values[name]} lacks atomic_numbers, atomic_energies or avg_num_neighbors") from None
    yield Set("model.elements", integers(elements))
    yield Set("data.e0s", energies(read_json(table) if str(table).endswith(".json") else table))
    yield Set("model.avg_num_neighbors", float(average))
    yield Note("its elements, E0s and neighbour count stand in the configuration; mean and std are computed anew, as mace_run_train does.")


def embedding_specs(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--embedding_specs: a dictionary there, a list here."""
    text = arguments.values[name]
    if text is None:
        return
    specs: dict[str, dict[str, Any]] = literal(text)
    fields = {"categorical": ("num_classes", "offset"), "continuous": ("in_dim", "use_bias")}
    yield Set(
        "model.joint_embedding",
        [
            {"name": key}
            | {field: spec[field] for field in ("type", "per", "emb_dim", *fields.get(spec.get("type", ""), ())) if field in spec}
            for key, spec in specs.items()
        ],
    )
    further = [key for key in specs if key not in ("total_charge", "total_spin", "charges", "elec_temp")]
    if further:
        yield Set("data.keys.inputs", ["elec_temp", *further])


def beside(option: str, owner: str) -> Rule:
    """The option means the same, and has no effect without another flag."""

    def rule(name: str, arguments: Arguments) -> Iterator[Outcome]:
        if arguments.values[owner] is not None:
            yield Set(option, arguments.values[name])
        elif name in arguments.given:
            yield Note(f"without effect, as in mace_run_train, where --{owner} is not given.")

    return rule


def so3(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--use_so3."""
    yield Set("model.so3", arguments.values[name])
    if arguments.values[name] and arguments.values["hidden_irreps"] is None:
        yield Note(
            "with --max_L mace_run_train makes features of odd parity (1o), which then stay zero; macejax makes those that harmonics "
            "without parity reach (1e)."
        )


def radial_type(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--radial_type."""
    yield Set("model.radial_basis", arguments.values[name])
    if arguments.values[name] == "chebyshev":
        yield Note("torch has no derivative of its Chebyshev polynomials: forces of mace-torch lack that part, those of macejax have it.")
