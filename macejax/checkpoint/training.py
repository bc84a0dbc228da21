"""Checkpoints of a whole training state: orbax writes the arrays, a manifest vouches for them.

A run keeps two folders of them, `last` and `best`, each with one sub-folder per step. A save is written to `<step>.part`, which nobody
reads, and gets its name when its MANIFEST.json is on the disk; only then are older ones deleted, so that at every moment there is a good
one. Where the step is saved again, the newer one is called `<step>.new` until the older is gone. A restore verifies before it reads.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from macejax.checkpoint.atomic import sync_directory
from macejax.checkpoint.manifest import CheckpointError, read_manifest, write_manifest

State = TypeVar("State")
_PART, _NEW = ".part", ".new"
_STEP = re.compile(rf"\d{{9}}({re.escape(_NEW)})?")


def save_checkpoint(folder: Path, step: int, state: Any, info: Mapping[str, Any], keep: int) -> Path:
    """Write a state to `folder/<step>`, in place of what may be there, and delete all but the newest `keep` checkpoints.

    A run that was stopped after the last step of an epoch has saved that step before its validation, and saves it again after it.

    Args:
      folder: `last` or `best` of a run.
      step: optimizer steps done.
      state: pytree of arrays; anything on a device is copied to the host first.
      info: JSON-able facts to return at restore.
      keep: checkpoints that stay, this one included.

    Raises:
      OSError: the disk refuses; older checkpoints are untouched.
    """
    final = folder.resolve() / f"{step:09d}"
    part, new = (final.with_name(final.name + suffix) for suffix in (_PART, _NEW))
    folder.mkdir(parents=True, exist_ok=True)
    for path in (part, new, final):
        if path.exists() and not _is_good(path):
            _discard(path)
    host = jax.tree.map(np.asarray, state)
    try:
        shutil.rmtree(part, ignore_errors=True)
        _checkpointer().save(part, host)
        write_manifest(part, {**info, "step": step, "arrays": _specification(host)})
    except Exception as error:
        shutil.rmtree(part, ignore_errors=True)
        raise OSError(
            f"the checkpoint {final} could not be written; earlier ones are untouched. {type(error).__name__}: {error}"
        ) from error
    _replace(final, new, part)
    sync_directory(final.parent)
    for older in _steps(folder)[keep:]:
        _discard(older)
    return final


def restore_checkpoint(folders: Sequence[Path], template: State, warn: Callable[[str], None]) -> tuple[State, dict[str, Any]]:
    """The newest checkpoint of several folders that is whole.

    Args:
      folders: `last` and `best` of a run; where a step is in several, the first wins.
      template: a state of the same structure, shapes and dtypes; its values do not matter.
      warn: called with a sentence for every damaged checkpoint that was passed over. It is renamed to `<step>.damaged`.

    Returns:
      State with numpy arrays, and the `info` of its save.

    Raises:
      FileNotFoundError: there is no checkpoint at all.
      CheckpointError: there are some, or were, but none is whole; or it belongs to another model or optimizer.
    """
    candidates = sorted((path for folder in folders for path in _steps(folder.resolve())), key=lambda path: path.name, reverse=True)
    if not candidates:
        if damaged := [path for folder in folders for path in _damaged(folder.resolve())]:
            raise CheckpointError(
                f"no checkpoint of this run is whole, and it is not begun anew by itself: {', '.join(map(str, damaged))} "
                f"{'were' if len(damaged) > 1 else 'was'} found damaged before. Put a whole copy there, or delete the folder to begin anew."
            )
        raise FileNotFoundError(f"there is no checkpoint in {' or '.join(map(str, folders))}.")
    reasons = []
    for path in candidates:
        try:
            info = read_manifest(path)
        except CheckpointError as error:
            reasons.append(str(error))
            warn(f"checkpoint {path} is not used: {error}")
            if jax.process_index() == 0:
                path.rename(_free_name(path, ".damaged"))
            continue
        _require_same_arrays(path, info["arrays"], _specification(template))
        return _read(path, template), info
    raise CheckpointError("no checkpoint of this run is whole, and it is not begun anew by itself: " + " ".join(reasons))


def remove_leftovers(folder: Path) -> None:
    """Delete what interrupted saves and deletions have left in `last` or `best`. Only for the process that holds the lock."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _STEP.fullmatch(path.name) and ".damaged" not in path.name:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return bool(_steps(folder) or _damaged(folder))


def _steps(folder: Path) -> list[Path]:
    """Step folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _STEP.fullmatch(path.name)), reverse=True)


def _damaged(folder: Path) -> list[Path]:
    """What was found damaged, and renamed."""
    return sorted(path for path in folder.iterdir() if ".damaged" in path.name) if folder.is_dir() else []


def _replace(final: Path, new: Path, part: Path) -> None:
    """Give `part`, which is whole, the name `final`. A crash half-way leaves it, or what was there before, under a name that is read."""
    if new.exists():  # left by such a crash: newer than `final`, older than `part`
        if final.exists():
            _discard(final)
        new.rename(final)
    if final.exists():
        part.rename(new)
        _discard(final)
        new.rename(final)
    else:
        part.rename(final)


def _is_good(path: Path) -> bool:
    try:
        read_manifest(path)
    except CheckpointError:
        return False
    return True


def _discard(path: Path) -> None:
    """Delete a checkpoint so that a crash half-way does not leave something that looks like one."""
    doomed = path.rename(_free_name(path, ".deleted"))
    shutil.rmtree(doomed)


def _free_name(path: Path, suffix: str) -> Path:
    names = (path.with_name(f"{path.name}{suffix}{count or ''}") for count in range(1000))
    return next(name for name in names if not name.exists())


def _specification(tree: Any) -> dict[str, list[Any]]:
    """Path in the tree -> [dtype, shape]."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): [str(np.dtype(leaf.dtype)), list(leaf.shape)] for path, leaf in leaves}


def _require_same_arrays(path: Path, found: Mapping[str, list[Any]], wanted: Mapping[str, list[Any]]) -> None:
    for name in sorted(found.keys() ^ wanted.keys()):
        where = "in the checkpoint only" if name in found else "in this run only"
        raise CheckpointError(f"checkpoint {path} is of another run: {name} is {where}. Resume with the configuration it was made with.")
    for name, specification in wanted.items():
        if found[name] != specification:
            raise CheckpointError(
                f"checkpoint {path} is of another run: {name} is {found[name]} there and {specification} here ([dtype, shape])."
            )


def _read(path: Path, template: State) -> State:
    import orbax.checkpoint as ocp

    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), template)
    return _checkpointer().restore(path, item=jax.tree.map(np.asarray, template), restore_args=as_numpy)


def _checkpointer() -> Any:
    """An orbax checkpointer of this process alone: the state is the same in all of them, and one writes it."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.PyTreeCheckpointer()
    here = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}")
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=options), multiprocessing_options=options)
