"""The key of a pair: equal keys give equal files, so what has its key done need not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hsyn_cli import __version__, plugins
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.errors import InputError
from hsyn_cli.io import checkpoints, files, headers
from hsyn_cli.io.endings import ends

CHUNK = 1 << 20  # bytes read at a time
TWO_FILES = (".hdr", ".img", ".mhd", ".nhdr")  # the voxels may lie in a second file
ORGANS = "hsyn_cli.anatomy.organs"


class Hashes:
    """The SHA-256 of files. A file that has not changed is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}

    def of(self, path: Path, what: str = "file") -> str:
        """The SHA-256 of the bytes of a file. Raises InputError."""
        files.check_file(path, what)
        try:
            about = path.stat()
            name = str(path.absolute()), about.st_size, about.st_mtime_ns
            if name not in self._known:
                digest = hashlib.sha256()
                with path.open("rb") as stream:
                    while chunk := stream.read(CHUNK):
                        digest.update(chunk)
                self._known[name] = digest.hexdigest()
            return self._known[name]
        except OSError as error:
            text = f"{what} {path}: {error.strerror or error}"
            raise InputError(text, "check the file, its permissions, its disk") from error

    def of_image(self, path: Path, what: str) -> list[str]:
        """The SHA-256 of each file of an image, or of a transform. Raises InputError."""
        files.check_file(path, what)
        parts = headers.read(path, what).parts if ends(path, TWO_FILES) else (path,)
        return [self.of(part, what) for part in parts]

    def of_checkpoints(self, model: str, head: str = "auto") -> Mapping[str, str]:
        """{name: SHA-256} of the checkpoints that may run for `model` and what of `head` counts.

        Raises WeightsError.
        """
        shipped = self._shipped()
        finder = {k: v for k, v in shipped.items() if k == checkpoints.FINDER and head != "all"}
        if model == "none":
            return finder
        if model == "auto" or model in plugins.names(ORGANS):
            return shipped
        path = checkpoints.find(model)
        return finder | {path.stem: self.of(path, "checkpoint")}

    def _shipped(self) -> dict[str, str]:
        folder = list(checkpoints.folders())[:1]
        infos = checkpoints.available(count=False)
        return {info.name: info.sha256 for info in infos if info.path.parent in folder}


def key(job: Job, threads: int, hashes: Hashes) -> str:
    """The key of a pair that runs with so many threads. Raises InputError, WeightsError."""
    inputs = {role: hashes.of_image(path, _what(role)) for role, path in job.inputs.given.items()}
    content = {
        "inputs": inputs,
        "options": dict(job.options),
        "folder": job.folder,
        "names": dict(job.names),
        "threads": threads,
        "version": __version__,
        "checkpoints": dict(hashes.of_checkpoints(*_networks(job.options))),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _networks(options: Mapping[str, Any]) -> tuple[str, str]:
    return str(options.get("model", "auto")), str(options.get("head", "auto"))


def _what(role: str) -> str:
    """What the file of a role is called in messages, as `register_files` does."""
    side, _, number = role.partition("_")
    if not number or number.isdigit():
        return f"{side} image {number}".rstrip()
    return role.replace("_", " ")
