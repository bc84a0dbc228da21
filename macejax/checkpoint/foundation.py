"""Models of others by name: fetched once, converted once, kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from macejax.checkpoint.long_range import REFUSED, means

MIT = "MIT"
ASL = "Academic Software License, no commercial use (https://github.com/gabor1/ASL)"
README = "see https://github.com/ACEsuit/mace-foundations"
TIMEOUT = 30.0  # s without an answer
_CHUNK = 1 << 20


class Foundation(NamedTuple):
    """A published model."""

    url: str
    licence: str
    sha256: str | None = None

    @property
    def file(self) -> str:
        """Its name, there and in the cache."""
        return self.url.rsplit("/", 1)[1]


def _of(release: str, licence: str, **files: str) -> dict[str, Foundation]:
    return {
        name.replace("_", "-"): Foundation(f"https://github.com/ACEsuit/{release}/{file}.model", licence) for name, file in files.items()
    }


# The names that mace-torch gives them.
FOUNDATIONS: dict[str, Foundation] = {
    **_of(
        "mace-mp/releases/download/mace_mp_0",
        MIT,
        small="2023-12-10-mace-128-L0_energy_epoch-249",
        medium="2023-12-03-mace-128-L1_epoch-199",
        large="MACE_MPtrj_2022.9",
    ),
    **_of("mace-mp/releases/download/mace_mp_0b", MIT, small_0b="mace_agnesi_small", medium_0b="mace_agnesi_medium"),
    **_of(
        "mace-mp/releases/download/mace_mp_0b2",
        MIT,
        small_0b2="mace-small-density-agnesi-stress",
        medium_0b2="mace-medium-density-agnesi-stress",
        large_0b2="mace-large-density-agnesi-stress",
    ),
    **_of("mace-mp/releases/download/mace_mp_0b3", MIT, medium_0b3="mace-mp-0b3-medium"),
    **_of("mace-mp/releases/download/mace_mpa_0", MIT, medium_mpa_0="mace-mpa-0-medium"),
    **_of("mace-mp/releases/download/mace_omat_0", ASL, small_omat_0="mace-omat-0-small", medium_omat_0="mace-omat-0-medium"),
    **_of(
        "mace-foundations/releases/download/mace_matpes_0",
        ASL,
        mace_matpes_pbe_0="MACE-matpes-pbe-omat-ft",
        mace_matpes_r2scan_0="MACE-matpes-r2scan-omat-ft",
    ),
    **_of("mace-foundations/releases/download/mace_mh_1", README, mh_0="mace-mh-0", mh_1="mace-mh-1"),
    **_of(
        "mace-off/raw/main/mace_off23",
        ASL,
        small_off="MACE-OFF23_small",
        medium_off="MACE-OFF23_medium",
        large_off="MACE-OFF23_large",
    ),
    **_of("mace/raw/main/mace/calculators/foundations_models", MIT, mace_anicc="ani500k_large_CC"),
    **_of("mace-foundations/releases/download/mace_omol_0", ASL, mace_omol="MACE-omol-0-extra-large-1024"),
}


class FetchError(OSError):
    """A model that could not be fetched; the sentence says where to put its file by hand."""


def is_name(path: str | os.PathLike) -> bool:
    """Whether this is the name of a published model, and not of a file that is there."""
    return str(path).replace("_", "-") in FOUNDATIONS and not Path(path).exists()


def absent(path: str | os.PathLike) -> FileNotFoundError:
    """The error for what is neither a file nor a name; it tells names that are alike."""
    from difflib import get_close_matches

    name = str(path).replace("_", "-").lower()
    if means(name):
        return FileNotFoundError(f"there is no file {path}; a model of that name (POLAR-1, MACELES) has {REFUSED}.")
    alike = [] if Path(path).suffix else get_close_matches(name, FOUNDATIONS, n=3) or list(FOUNDATIONS)
    hint = f"; published models have names such as {', '.join(alike)}" if alike else ""
    return FileNotFoundError(f"there is no file {path}{hint}.")


def folder() -> Path:
    """Where models are kept: MACEJAX_MODELS, else macejax/models in the user's cache."""
    named = os.environ.get("MACEJAX_MODELS")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "macejax" / "models"


def converted(name: str) -> Path:
    """The model file of a published model, which is fetched and converted where that has not been done before.

    Raises:
      FetchError: it is not in the cache and cannot be fetched, or what came is damaged.
      TorchImportError: a model with parts that macejax does not have; the sentence names them.
    """
    from macejax.checkpoint.model_file import save_model
    from macejax.checkpoint.torch_file import load_torch

    found = FOUNDATIONS[name.replace("_", "-")]
    by_hand = (folder() / found.file).exists()
    source = fetch(name)
    path = source.with_suffix(".mace")
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        save_model(path, load_torch(source), {"licence": found.licence, "source": source.name})
        if by_hand:  # the licence is told once, here where nothing was fetched
            print(f"macejax uses {source} as {name}. Licence: {found.licence}.", file=sys.stderr)
    return path


def fetch(name: str) -> Path:
    """The file of mace-torch of a published model; where it is not in the cache it is fetched, its licence printed.

    A transfer that broke off goes on where it ended. The file gets its name when it is whole and every checksum in it holds.

    Raises:
      FetchError: as `converted`.
    """
    found = FOUNDATIONS[name.replace("_", "-")]
    path = folder() / found.file
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if path.exists():  # another process had begun before
            return path
        print(f"macejax fetches {name} from {found.url}. Licence: {found.licence}.", file=sys.stderr)
        part = path.with_name(path.name + ".part")
        try:
            _transfer(found.url, part)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise FetchError(
                f"{name} could not be fetched from {found.url} ({error}). Put the file at {path}, and it will be used."
            ) from error
        if fault := _fault(part, found.sha256):
            part.unlink()
            raise FetchError(f"what {found.url} sent as {name} is not the model: {fault}. Put the file at {path}, and it will be used.")
        os.replace(part, path)
        return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time fetches a file; the others wait until it is there. The system drops the lock of a process that ends."""
    with open(path.with_name(path.name + ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # of file systems that have no locks
            warnings.warn(f"{file.name} cannot be locked ({error}): let no other process fetch {path.name} now.", stacklevel=3)
        yield


def _transfer(url: str, part: Path) -> None:
    """Append to `part` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        return  # nothing is lacking: what is there is looked at next
    with answer, open(part, "ab" if answer.status == 206 else "wb") as file:
        expected = answer.headers.get("Content-Length")
        written = 0
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            written += len(chunk)
    if expected is not None and written < int(expected):
        raise OSError(f"the connection ended after {written} of {expected} bytes; another try goes on from there")


def _fault(path: Path, sha256: str | None) -> str | None:
    """What is wrong with a file, None where nothing is."""
    if sha256 is not None:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            return f"its checksum is {digest}, not {sha256}"
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except zipfile.BadZipFile as error:
        return f"it is no archive of torch ({error})"
    return None if bad is None else f"its member {bad} is damaged"
