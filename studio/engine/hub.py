"""Files of a hub's repositories on this disk: found, or downloaded with progress, resumed and checked.

huggingface_hub does the protocol (addresses, tokens, redirects, errors); it throws an interrupted file away, so the
bytes are fetched here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # re-exported, not declared so
    WeakFileLock,
    build_hf_headers,
    hf_raise_for_status,
)

from studio.engine.base import LoadProgress
from studio.errors import ConfigurationError, DiskFull, DownloadError, ModelNotFound
from studio.settings import ENV_PREFIX

REPORT_EVERY = 1 << 19  # bytes
TIMEOUT = httpx.Timeout(30.0, connect=10.0)  # s
SPARE = 64 << 20  # bytes that a download leaves free
_Report = Callable[[int], None]  # bytes of the file that have arrived
_REPOSITORY = re.compile(r"([\w-][\w.-]*/)?[\w-][\w.-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch(repository: str, files: Sequence[str], weights_dir: Path, on_progress: LoadProgress) -> Path:
    """A folder that holds `files` of `repository`: in `weights_dir`, in the user's hub cache, or downloaded now.

    What is on the disk is used as it is, without asking the hub.

    Raises:
        ModelNotFound: the hub has no such repository or file, or keeps it from this user.
        DownloadError: the hub cannot be reached, or broke off; what arrived is kept, and a second call goes on there.
        DiskFull: there is not enough room; checked before.
    """
    _check_name(repository)
    folder = weights_dir / repository
    if _complete(folder, files):
        return folder
    if cached := _hub_cache(repository, files):
        return cached
    constants.HF_HUB_DISABLE_TELEMETRY = True  # it would ask the hub which programs to look for, and report them
    partial = weights_dir / ".partial" / repository
    with _explained(repository, files, folder):
        partial.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(partial / ".lock"):  # two workers may share the weights
            missing = [_ask(repository, file) for file in files if not (folder / file).is_file()]
            if missing:
                _download_all(missing, folder, partial, on_progress)
    return folder


@dataclass(frozen=True)
class RemoteFile:
    """What the hub says about a file."""

    name: str
    url: str
    size: int  # bytes
    tag: str  # names this version of the file; its SHA-256 where the hub stores it as a large file

    @property
    def sha256(self) -> str | None:
        return self.tag if _SHA256.fullmatch(self.tag) else None


def _check_name(repository: str) -> None:
    """A name from a checkpoint's configuration becomes a path: nothing but `name` or `owner/name` may."""
    if not _REPOSITORY.fullmatch(repository):
        raise ModelNotFound(f"{repository!r} is not the name of a repository on the hub.")


def _complete(folder: Path, files: Sequence[str]) -> bool:
    return all((folder / file).is_file() for file in files)


def _hub_cache(repository: str, files: Sequence[str]) -> Path | None:
    """The snapshot in the user's own hub cache, where it is complete."""
    found = [try_to_load_from_cache(repository, file) for file in files]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths[0].parent if len(paths) == len(files) and len({path.parent for path in paths}) == 1 else None


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None  # huggingface_hub reads it once, at import


def _ask(repository: str, file: str) -> RemoteFile:
    url = hf_hub_url(repository, file, endpoint=_endpoint())
    found = get_hf_file_metadata(url, endpoint=_endpoint(), timeout=TIMEOUT.connect)
    if found.size is None or found.etag is None:
        raise DownloadError(f"The hub does not say how large {file} of {repository} is: is this a hub?")
    return RemoteFile(file, url, found.size, found.etag)


def _download_all(files: Sequence[RemoteFile], folder: Path, partial: Path, on_progress: LoadProgress) -> None:
    parts = {file: partial / f"{file.name}.{re.sub('[^0-9A-Za-z]', '', file.tag)[:16]}" for file in files}
    total, done = sum(file.size for file in files), 0
    _check_space(folder, total - sum(_size(part) for part in parts.values()))
    for file, part in parts.items():

        def report(arrived: int, file: RemoteFile = file, before: int = done) -> None:
            on_progress(
                (before + arrived) / max(total, 1), f"downloading {file.name}, {_mb(arrived)} of {_mb(file.size)} MB"
            )

        _download(file, part, report)
        done += file.size
        folder.mkdir(parents=True, exist_ok=True)
        part.replace(folder / file.name)
    for outdated in partial.glob("*.*.*"):  # parts of versions that the hub has replaced
        outdated.unlink()


def _download(file: RemoteFile, part: Path, report: _Report) -> None:
    """Fill `part` up from where it stands; a connection that breaks is taken up again as long as bytes arrive."""
    while (before := _size(part)) < file.size:
        broke: httpx.TransportError | None = None
        try:
            _continue(file, part, report)
        except httpx.TransportError as error:
            broke = error
        if _size(part) <= before:
            raise DownloadError(
                f"The connection broke at {_mb(before)} of {_mb(file.size)} MB of {file.name} "
                f"({broke or 'the answer was shorter'}). Try again: it goes on from there."
            ) from broke
    _check(file, part)


def _continue(file: RemoteFile, part: Path, report: _Report) -> None:
    start = _size(part)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with get_session().stream("GET", file.url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
        hf_raise_for_status(response)
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        with part.open("ab" if resumed else "wb") as out:  # a server may ignore the range and begin anew
            reported = out.tell()
            for chunk in response.iter_bytes():  # of no fixed size: one that is not full would be lost at a break
                out.write(chunk)
                if (arrived := out.tell()) >= min(reported + REPORT_EVERY, file.size):
                    report(reported := arrived)


def _check(file: RemoteFile, part: Path) -> None:
    """Size and, where the hub states it, SHA-256; a damaged file is not kept."""
    intact = _size(part) == file.size
    if intact and file.sha256:
        with part.open("rb") as data:
            intact = hashlib.file_digest(data, "sha256").hexdigest() == file.sha256
    if not intact:
        part.unlink()
        raise DownloadError(f"{file.name} arrived damaged and was deleted. Try again.")


def _check_space(folder: Path, needed: int) -> None:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed + SPARE:
        raise DiskFull(
            f"The weights take {_mb(needed)} MB and {place} has {_mb(free)} MB free: free some space, or set "
            f"{ENV_PREFIX}DATA_DIR to a folder on another disk."
        )


@contextmanager
def _explained(repository: str, files: Sequence[str], folder: Path) -> Iterator[None]:
    """Each failure of the libraries becomes a sentence that says what to do."""
    by_hand = f"put {' and '.join(files)} of {repository} into {folder}, or choose the model musicgen-mini"
    try:
        yield
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{repository} is for members only: accept its terms on the hub and set HF_TOKEN, or {by_hand}."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"The hub has no model {repository}. Check the name, or {by_hand}.") from error
    except EntryNotFoundError as error:
        raise ModelNotFound(
            f"{repository} on the hub lacks one of {', '.join(files)}: it is in another format."
        ) from error
    except (httpx.TransportError, OfflineModeIsEnabled) as error:
        raise DownloadError(
            f"The hub cannot be reached ({error}). Connect this machine, set HF_ENDPOINT to a mirror, or {by_hand}."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise DownloadError(f"The hub answered {status} for {repository}. Try again later, or {by_hand}.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"The disk of {folder} is full: free some space and try again.") from error
        raise ConfigurationError(f"The weights cannot be written to {folder}: {error}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f}"
