"""`macejax info`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from macejax.data.structure import Structure

UNITS = {
    "energy_per_atom": ("E", "meV/atom"),
    "forces": ("F", "meV/Å"),
    "stress": ("stress", "meV/Å³"),
    "dipole_per_atom": ("dipole", "10⁻³/atom"),
    "polarizability_per_atom": ("polarizability", "10⁻³/atom"),
}
PROGRAMS = (".model", ".pt", ".pth", ".pkl")  # what other programs call their models


def command(
    file: Annotated[
        Path, typer.Argument(help="Model file, name of a published model, or structures: extended XYZ or anything that ASE reads.")
    ],
    keys: Annotated[list[str] | None, typer.Option("--key", help="Name of a label in a file of structures: energy=dft_energy.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a model file or a file of structures."""
    from macejax.checkpoint.foundation import absent, is_name

    if not (file.exists() or is_name(file)):
        raise absent(file)
    if file.suffix in (".mace", *PROGRAMS) or is_name(file) or _looks_like_a_model(file):
        from macejax.checkpoint.load import read_header
        from macejax.config import ConfigError

        if keys:
            raise ConfigError(f"--key names labels of structures, and {file} is a model.")
        facts = read_header(file) if as_json else _describe_model(read_header(file))
    else:
        from macejax.config.run import read_keys
        from macejax.data.read import read

        facts = _describe_data(read(file, read_keys(keys or ()), need_labels=False))
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name.ljust(width)}  {value}")


def _looks_like_a_model(file: Path) -> bool:
    with open(file, "rb") as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size


def _describe_model(header: dict[str, Any]) -> dict[str, Any]:
    from macejax.checkpoint.model_file import OF_ENERGIES
    from macejax.config.predicts import PREDICTS

    config = header["config"]
    has_energies = "energy" in PREDICTS[config["model"]]
    parts = [f", {config['distance_transform']} transform"] if config.get("distance_transform", "none") != "none" else []
    parts += [", ZBL repulsion"] if config.get("pair_repulsion") else []
    layers = f"{config['interaction_first']}, then {config['interaction']}"
    facts = {
        "model": f"{config['model']}, {header['parameters']} parameters, {header['dtype']}",
        **_describe_heads(config, header["species"]),
        "cutoff": f"{config['cutoff']:g} Angstrom, {config['num_bessel']} {config.get('radial_basis', 'bessel').capitalize()} functions",
        "layers": f"{config['num_interactions']} ({layers}), {config['hidden_irreps']}, l_max {config['l_max']}, "
        f"correlation {config['correlation']}" + "".join(parts),
        "neighbours": f"{config['avg_num_neighbors']:.4g} on average",
        "units": ", ".join(f"{name} {unit}" for name, unit in header["units"].items() if has_energies or name not in OF_ENERGIES),
        "written by": ", ".join(f"{name} {number}" for name, number in header["versions"].items()),
        "format": str(header["format"]),
    }
    extra = dict(header["extra"])
    for subset, errors in extra.pop("mae_rmse", {}).items():
        shown = ((symbol, unit, errors[name]) for name, (symbol, unit) in UNITS.items() if name in errors)
        facts[f"MAE, {subset}"] = ", ".join(f"{symbol} {1000 * mae:.4g} {unit}" for symbol, unit, (mae, _) in shown)
    return facts | {name: str(value) for name, value in extra.items()}


def _describe_heads(config: dict[str, Any], species: list[str]) -> dict[str, str]:
    """Elements with their E0s, scale and shift, of every head, where the model has them; and what it reads beside the structure."""
    from macejax.config.predicts import PREDICTS

    predicts = PREDICTS[config["model"]]
    if "energy" not in predicts:
        return {"elements": ", ".join(species), "predicts": ", ".join(predicts)}
    heads = config.get("heads", ["Default"])
    rows = config["e0s"] if len(heads) > 1 else [config["e0s"]]
    scales, shifts = (config[name] if isinstance(config[name], list) else [config[name]] * len(heads) for name in ("scale", "shift"))
    facts = {}
    for head, row, scale, shift in zip(heads, rows, scales, shifts, strict=True):
        of_head = f", {head}" if len(heads) > 1 else ""
        facts[f"elements{of_head}"] = ", ".join(f"{symbol} ({e0:.6g} eV)" for symbol, e0 in zip(species, row, strict=True))
        if "dipole" in predicts:
            facts["predicts"] = ", ".join(predicts)
        else:
            facts[f"constants{of_head}"] = f"scale {scale:.4g} eV, shift {shift:.4g} eV"
    if inputs := config.get("joint_embedding"):
        facts["reads too"] = ", ".join(f"{spec['name']} ({spec['type']}, per {spec['per']})" for spec in inputs)
    return facts


def _describe_data(structures: Sequence[Structure]) -> dict[str, Any]:
    import numpy as np

    from macejax.data.species import elements_of, names

    sizes = [len(structure.numbers) for structure in structures]
    periodic = sum(bool(structure.pbc.any()) for structure in structures)
    facts = {
        "structures": f"{len(structures)}, {min(sizes)} to {max(sizes)} atoms, {periodic} periodic",
        "elements": names(elements_of(structures)),
    }
    energies = np.array([structure.energy / len(structure.numbers) for structure in structures])
    forces = [structure.forces[~np.isnan(structure.forces)] for structure in structures if structure.forces is not None]
    stresses = [structure.stress for structure in structures if structure.stress is not None]
    virials = sum(structure.virials is not None for structure in structures)
    known = energies[~np.isnan(energies)]
    if len(known):
        facts["energy"] = f"{len(known)} labels, {known.min():.6g} to {known.max():.6g} eV/atom"
    if forces:
        every = np.concatenate(forces)
        facts["forces"] = f"{len(forces)} structures, rms {np.sqrt(np.mean(every**2)):.4g}, largest {np.abs(every).max():.4g} eV/Angstrom"
    if stresses:
        facts["stress"] = f"{len(stresses)} labels, rms {np.sqrt(np.mean(np.square(stresses))):.4g} eV/Angstrom^3"
    if virials:
        facts["virials"] = f"{virials} labels"
    for name in ("dipole", "polarizability"):
        if labels := [getattr(structure, name) for structure in structures if getattr(structure, name) is not None]:
            facts[name] = f"{len(labels)} labels, rms {np.sqrt(np.mean(np.square(labels))):.4g}"
    for field in ("config_type", "head"):
        values = [getattr(structure, field) for structure in structures]
        facts[field] = ", ".join(f"{value} ({values.count(value)})" for value in sorted(set(values)))
    return facts
