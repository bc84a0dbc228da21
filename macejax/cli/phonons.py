"""`macejax phonons`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from macejax.cli.options import Dtype


def command(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structure: Annotated[Path, typer.Argument(help="Crystal: extended XYZ or anything that ASE reads.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Report (HTML); the figure is written beside it, as PNG.")] = Path(
        "phonons.html"
    ),
    supercell: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Repetitions along the lattice vectors. [default: twice the cutoff wide]")
    ] = None,
    relax: Annotated[bool, typer.Option(help="Relax atoms and cell first.")] = True,
    fmax: Annotated[float | None, typer.Option(help="Largest force that is left by that (eV/Angstrom). [default: 0.0001]")] = None,
    head: Annotated[str | None, typer.Option(help="Which head to use, of a model with several.")] = None,
    method: Annotated[
        Literal["hessian", "displacements"], typer.Option(help="Force constants: exact second derivatives, or differences of forces.")
    ] = "hessian",
    path: Annotated[str | None, typer.Option(help="Through the Brillouin zone, such as GXWKGL. [default: that of the lattice]")] = None,
    mesh: Annotated[float, typer.Option(min=1, help="Density of q points for sums: a length (Angstrom), larger is denser.")] = 60.0,
    temperature: Annotated[float, typer.Option(min=0, help="Highest one for free energy and heat capacity (K).")] = 1000.0,
    save: Annotated[Path | None, typer.Option(help="Crystal and force constants as a file of phonopy (YAML).")] = None,
    index: Annotated[int, typer.Option(help="Which structure of the file; -1 is the last.")] = -1,
    dtype: Annotated[Dtype, typer.Option(help="Precision.")] = "float64",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Phonons of a crystal: band structure, density of states, harmonic free energy. Needs phonopy. Exits with 1 where it is unstable."""
    from macejax.cli.process import set_up_jax

    set_up_jax(dtype)
    import time

    from macejax.config import ConfigError
    from macejax.properties import phonon as physics
    from macejax.properties.report import write_phonon_report
    from macejax.simulate import Calculator
    from macejax.simulate.record import read_frames, refuse_existing, refuse_same

    physics.need_phonopy()
    if fmax is not None and not relax:
        raise ConfigError("--fmax is of the relaxation, which --no-relax leaves out.")
    picture = output.with_suffix(".png")
    refuse_same({"the report (--output)": output, "its figure": picture, "--save": save})
    refuse_existing((output, picture, save), overwrite)
    atoms = read_frames(structure, str(index))[0]
    atoms.calc = calculator = Calculator(model, dtype=dtype, head=head)
    physics.refuse_unfit(atoms)
    if supercell is not None:
        physics.supercell_matrix(supercell)
    began = time.perf_counter()
    if relax:
        _relax(atoms, 1e-4 if fmax is None else fmax, structure)
    if path is not None:
        physics.refuse_path(atoms, path)
    repeats = supercell or physics.wide(atoms, 2 * calculator.model.config.cutoff)
    found = physics.phonons(atoms, repeats, method=method)
    spectrum = _spectrum(found, path, mesh, temperature)
    facts = {
        "model": str(model),
        "structure": f"{structure}, index {index}, {len(atoms)} atoms, {'relaxed' if relax else 'as it is'}",
        "supercell": f"{' x '.join(map(str, repeats))}, {len(found.supercell)} atoms",
        "force constants": "exact second derivatives" if method == "hessian" else "differences of forces",
    } | _of_crystal(atoms, found, time.perf_counter() - began)
    write_phonon_report(output, atoms, spectrum.bands, spectrum.states, spectrum.thermal, _cards(spectrum, found), facts)
    if save:
        found.save(str(save), settings={"force_constants": True})
    _tell(spectrum, facts)
    typer.echo(f"Report: {output}, figure: {picture}{f', phonopy: {save}' if save else ''}.")
    if spectrum.thermal is None:
        raise typer.Exit(1)


class _Spectrum(NamedTuple):
    """What is told of the frequencies (THz)."""

    bands: Any
    states: Any
    lowest: float
    highest: float
    thermal: Any  # None where the crystal is unstable


def _relax(atoms: Any, fmax: float, source: Path) -> None:
    from macejax.data.structure import DataError
    from macejax.simulate import relax

    end = relax(atoms, fmax=fmax, cell=True)
    if not end.converged:
        left = f"{end.largest_force:.2g} eV/Angstrom after {end.step} steps"
        raise DataError(f"{source}: it did not relax, a force of {left} is left: raise --fmax, or relax it first.")


def _spectrum(found: Any, path: str | None, mesh: float, temperature: float) -> _Spectrum:
    import numpy as np

    from macejax.properties import phonon as physics

    bands, states = physics.band_structure(found, path=path), physics.density_of_states(found, mesh=mesh)
    lowest = min(float(bands.frequencies.min()), states.lowest)
    stable = lowest > -physics.IMAGINARY
    thermal = physics.thermodynamics(found, np.linspace(0, temperature, 101), mesh=mesh) if stable else None
    return _Spectrum(bands, states, lowest, float(bands.frequencies.max()), thermal)


def _cards(spectrum: _Spectrum, found: Any) -> list[tuple[str, str]]:
    cards = [(f"{spectrum.lowest:.2f} THz", "lowest frequency"), (f"{spectrum.highest:.2f} THz", "highest frequency")]
    if spectrum.thermal is not None:
        cards.append((f"{1000 * spectrum.thermal.free_energy[0] / len(found.primitive):.2f} meV", "zero-point energy of an atom"))
    return cards


def _tell(spectrum: _Spectrum, facts: dict[str, str]) -> None:
    from macejax.properties.report import THERMAL_HEAD, thermal_rows
    from macejax.train.table import Table, plain

    typer.echo("\n".join(f"{name:16s} {value}" for name, value in facts.items()))
    unstable = "; negative ones are imaginary: UNSTABLE" if spectrum.thermal is None else ""
    typer.echo(f"frequencies      {spectrum.lowest:.3f} to {spectrum.highest:.3f} THz{unstable}")
    if spectrum.thermal is not None:
        typer.echo(plain(Table(list(THERMAL_HEAD), [list(row) for row in thermal_rows(spectrum.thermal)])))


def _of_crystal(atoms: Any, found: Any, seconds: float) -> dict[str, str]:
    """What a person checks first."""
    import numpy as np

    return {
        "lattice vectors": ", ".join(f"{length:.5f} Å" for length in atoms.cell.lengths()),
        "primitive cell": f"{len(found.primitive)} atoms",
        "largest force": f"{np.linalg.norm(atoms.get_forces(), axis=1).max():.2g} eV/Å",
        "seconds": f"{seconds:.1f}",
    }
