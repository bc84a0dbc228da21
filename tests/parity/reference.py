"""mace-torch as a measuring stick: random modules, its own evaluation of a structure, and structures that exercise every boundary."""

from __future__ import annotations

import os
from typing import Any

import ase
import ase.build
import numpy as np

ELEMENTS = (8, 13, 22)
CUTOFF = 4.2


def random_module(
    *,
    hidden: str = "4x0e + 4x1o",
    num_interactions: int = 2,
    correlation: int | list[int] = 3,
    l_max: int = 3,
    model: str = "ScaleShiftMACE",
    first: str = "RealAgnostic",
    interaction: str = "RealAgnosticResidual",
    elements: tuple[int, ...] = ELEMENTS,
    cutoff: float = CUTOFF,
    gate: str = "silu",
    readout: str = "16x0e",
    radial_mlp: tuple[int, ...] = (16, 16),
    scale: float = 0.7,
    shift: float = -0.3,
    seed: int = 0,
    **options: Any,
) -> Any:
    """A float64 mace-torch module whose weights are far from any initialisation: each tensor is scaled by its own random factor."""
    import torch
    from e3nn import o3
    from mace import modules

    torch.manual_seed(seed)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    gates = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs, "none": None}
    if model == "ScaleShiftMACE":
        options = {"atomic_inter_scale": scale, "atomic_inter_shift": shift, **options}
    for name in ("edge_irreps",):
        if name in options:
            options[name] = o3.Irreps(options[name])
    if "readout_cls" in options:
        options["readout_cls"] = modules.readout_classes[options["readout_cls"]]
    settings: dict[str, Any] = {
        "r_max": cutoff,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": l_max,
        "interaction_cls": modules.interaction_classes[f"{interaction}InteractionBlock"],
        "interaction_cls_first": modules.interaction_classes[f"{first}InteractionBlock"],
        "num_interactions": num_interactions,
        "num_elements": len(elements),
        "hidden_irreps": o3.Irreps(hidden),
        "MLP_irreps": o3.Irreps(readout),
        "gate": gates[gate],
        "atomic_energies": np.linspace(-3.0, -1.0, len(elements)),
        "avg_num_neighbors": 6.5,
        "atomic_numbers": list(elements),
        "correlation": correlation,
        "radial_MLP": list(radial_mlp),
        "use_reduced_cg": False,
    }
    try:
        module = getattr(modules, model)(**{**settings, **options})
    finally:
        torch.set_default_dtype(previous)
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(generator.uniform(1.0, 2.0))
    return module


def to_batch(atoms: ase.Atoms | list[ase.Atoms], module: Any) -> dict[str, Any]:
    """Structures as the dictionary of tensors that a mace-torch module takes."""
    import torch
    from mace import data
    from mace.tools import AtomicNumberTable, torch_geometric

    table = AtomicNumberTable([int(z) for z in module.atomic_numbers])
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        frames = [atoms] if isinstance(atoms, ase.Atoms) else atoms
        keys = data.KeySpecification.from_defaults()
        graphs = [
            data.AtomicData.from_config(
                data.config_from_atoms(frame, keys, head_name=frame.info.get("head", "Default")),
                z_table=table,
                cutoff=float(module.r_max),
                heads=getattr(module, "heads", ["Default"]),
            )
            for frame in frames
        ]
        return next(iter(torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs), shuffle=False))).to_dict()
    finally:
        torch.set_default_dtype(previous)


def evaluate(module: Any, atoms: ase.Atoms, *, hessian: bool = True) -> dict[str, np.ndarray]:
    """What mace-torch says of one structure, in float64.

    energy [] and node_energy [N] with E0s (eV), forces [N, 3], stress [3, 3], strain_derivative [3, 3] = minus its virials (eV),
    hessian [3N, 3N], and contributions [N, layers] (eV): the ZBL repulsion where there is one, and the readout of
    each layer, before scale and shift.
    """
    import torch

    batch = to_batch(atoms, module)
    layers: list[np.ndarray] = []
    parts = [module.pair_repulsion_fn] if hasattr(module, "pair_repulsion_fn") else []
    head = int(batch["head"][0])

    def keep(_module: Any, _inputs: Any, out: Any) -> None:
        columns = out.detach().numpy().reshape(len(out), -1)
        layers.append(columns[:, head if columns.shape[1] > 1 else 0])

    hooks = [part.register_forward_hook(keep) for part in [*parts, *module.readouts]]
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # ZBL multiplies atomic numbers in whatever the default is
    try:
        out = module(batch, compute_force=True, compute_stress=True, compute_virials=True)
    finally:
        torch.set_default_dtype(previous)
        for hook in hooks:
            hook.remove()
    result = {name: out[name].detach().numpy().astype(np.float64) for name in ("energy", "node_energy", "forces", "stress", "virials")}
    num = len(atoms)
    answer = {
        "energy": result["energy"][0],
        "node_energy": result["node_energy"],
        "forces": result["forces"],
        "stress": result["stress"].reshape(3, 3),
        "strain_derivative": -result["virials"].reshape(3, 3),
        "contributions": np.stack(layers, axis=-1),
    }
    if hessian:
        second = module(to_batch(atoms, module), compute_force=True, compute_hessian=True)["hessian"]
        answer["hessian"] = second.detach().numpy().reshape(3 * num, 3 * num)
    return answer


def molecule() -> ase.Atoms:
    """Six atoms, open boundaries, three elements; far enough from symmetric."""
    positions = [[0, 0, 0], [1.7, 0.2, -0.1], [-0.6, 1.6, 0.3], [0.4, -0.9, 1.5], [2.3, 1.8, 0.5], [-1.4, -1.1, -0.8]]
    return ase.Atoms(numbers=[22, 8, 8, 13, 8, 22], positions=positions)


def crystal() -> ase.Atoms:
    """Eight atoms of rock salt with a substitution, rattled, in a sheared cell; periodic in every direction."""
    atoms = ase.build.bulk("TiO", "rocksalt", a=4.2, cubic=True)
    atoms.numbers[0] = 13
    atoms.set_cell(atoms.cell @ np.array([[1.0, 0.05, 0.0], [0.0, 0.97, 0.08], [0.03, 0.0, 1.04]]), scale_atoms=True)
    atoms.rattle(0.12, seed=3)
    return atoms


def tial() -> ase.Atoms:
    """Two atoms of L1_0 TiAl: the cell is far smaller than the cutoff, so that atoms see many images of themselves."""
    atoms = ase.Atoms("TiAl", cell=[2.82, 2.82, 4.05], scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], pbc=True)
    atoms.positions[1] += [0.11, -0.07, 0.05]
    return atoms


def slab() -> ase.Atoms:
    """Open surface: periodic along two directions, no lattice vector along the third."""
    atoms = ase.build.fcc100("Al", (2, 1, 3), a=4.05)
    atoms.numbers[[1, 4]] = 22
    atoms += ase.Atoms("O", positions=[atoms.positions[-1] + [0.3, 0.4, 1.6]])
    atoms.rattle(0.1, seed=5)
    atoms.pbc = (True, True, False)
    atoms.cell[2] = 0.0
    return atoms


def isolated_atom() -> ase.Atoms:
    return ase.Atoms("Al")


STRUCTURES = {"molecule": molecule, "crystal": crystal, "tial": tial, "slab": slab}

# mace-torch pickles whole modules; this lets its own e3nn load the constants that it ships.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
