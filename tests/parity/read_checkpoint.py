"""Child process of test_checkpoints.py: opens pickled mace-torch modules (which runs code), saves them as macejax models with the answers
of mace-torch.

python -m tests.parity.read_checkpoint FOLDER CHECKPOINT FRAMES [CHECKPOINT FRAMES ...] -> FOLDER/0.mace, FOLDER/0.npz, ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from macejax.checkpoint.model_file import save_model
from macejax.checkpoint.torch_import import from_torch
from tests.parity import reference


def main(folder: str, *arguments: str) -> None:
    for number, (checkpoint, frames) in enumerate(zip(arguments[::2], arguments[1::2], strict=True)):
        module = exact_float64(checkpoint)
        save_model(Path(folder) / f"{number}.mace", from_torch(module))
        answers = [reference.evaluate(module, frame, hessian=False) for frame in ase.io.read(frames, ":")]
        arrays = {f"{i}/{name}": value for i, answer in enumerate(answers) for name, value in answer.items()}
        np.savez(Path(folder) / f"{number}.npz", **arrays)


def exact_float64(checkpoint: str) -> Any:
    """The module in float64. One that was trained in float32 is built anew around its weights: a cast would keep rounded constants."""
    import torch
    from mace.tools.scripts_utils import extract_config_mace_model

    module = torch.load(checkpoint, map_location="cpu", weights_only=False)
    if next(module.parameters()).dtype == torch.float64:
        return module
    torch.set_default_dtype(torch.float64)
    rebuilt = type(module)(**extract_config_mace_model(module))
    weights = dict(module.double().named_parameters())
    with torch.no_grad():
        for name, parameter in rebuilt.named_parameters():
            parameter.copy_(weights[name])
    return rebuilt


if __name__ == "__main__":
    main(*sys.argv[1:])
