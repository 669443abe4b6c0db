"""Checkpoints: safetensors files, given by name or path and checked before use.

A checkpoint is NAME.safetensors with its model card NAME.md. The entry "hsyn" of its metadata is
JSON: ``{"config": architecture, "training": summary}``. A folder of checkpoints has a
manifest.json: ``{NAME: {"file", "sha256", "training_data", "licence", "scores"}}``. hsyn searches
first the folder of the package (``hsyn_cli/_weights`` in a wheel, top-level ``weights/`` in a
checkout), then the user's data folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsyn_cli.errors import WeightsError
from hsyn_cli.io import atomic

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT = "brain-t1"  # if nothing else decides
FINDER = "brain-finder"  # it finds the brains of heads, and registers nothing
SUFFIX = ".safetensors"
MANIFEST = "manifest.json"
LIST_HINT = "`hsyn weights list` shows all installed checkpoints"
SHOWN = 3  # names listed in an error about many


@dataclass(frozen=True)
class CheckpointId:
    """The checkpoint that ran. `verified`: its hash equals that of a manifest."""

    name: str
    sha256: str
    verified: bool


@dataclass(frozen=True)
class CheckpointInfo:
    """A manifest's entry of a checkpoint. `parameters`: numbers in the file; 0: not readable."""

    name: str
    path: Path
    sha256: str
    training_data: str
    licence: str
    scores: Mapping[str, Any]
    parameters: int

    @property
    def is_default(self) -> bool:
        """Whether it is used where nothing else decides."""
        return self.name == DEFAULT


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and the architecture they belong to.

    `verified`: the hash equals that of a manifest.
    """

    name: str
    path: Path
    sha256: str
    config: dict[str, Any]
    training: dict[str, Any]
    tensors: dict[str, Tensor]
    verified: bool


def folders() -> Iterator[Path]:
    """The folders to search for a name: those that have a manifest which may be read.

    Those of the package come first, and need no platformdirs.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_weights", package.parent / "weights"):
        if os.access(folder / MANIFEST, os.R_OK):
            yield folder
    import platformdirs

    with contextlib.suppress(RuntimeError):  # no HOME, and a user id without an entry
        data = Path(platformdirs.user_data_path("hsyn", appauthor=False))
        if data.is_absolute() and os.access(data / "weights" / MANIFEST, os.R_OK):  # no plain ~
            yield data / "weights"


def find(name_or_path: str | Path) -> Path:
    """The file of a checkpoint, given by name or by path (with a folder or .safetensors in it).

    Raises WeightsError for an unknown name, a missing file or a format other than safetensors.
    """
    text = str(name_or_path)
    known: dict[str, Path] = {}
    for folder in () if text.endswith(SUFFIX) else folders():  # no name ends so
        for name, entry in _manifest(folder).items():
            known.setdefault(name, folder / entry["file"])
        if text in known:
            break
    path = known.get(text)
    if path is None:
        path = Path(text)
        if path.suffix != SUFFIX and path.name == text and not os.path.exists(path):
            names = ", ".join(sorted(known)) or "none is installed"
            raise WeightsError(
                f"unknown checkpoint {text!r}; known: {names}", f"{LIST_HINT}; or give a path"
            )
        if os.path.isfile(path) and path.suffix != SUFFIX:
            raise WeightsError(
                f"checkpoint {path} is not a {SUFFIX} file", "hsyn never loads pickled checkpoints"
            )
    try:
        found = path.is_file()
    except OSError as error:  # a folder that may not be entered
        raise WeightsError(
            f"checkpoint {path}: {error.strerror}", "check the permissions of its folders"
        ) from error
    if not found:
        raise WeightsError(f"checkpoint {path}: no such file", LIST_HINT)
    return path


def load(name_or_path: str | Path) -> Checkpoint:
    """Read a checkpoint, after checking its hash if the manifest beside it lists the file.

    Raises WeightsError like `find`, for a wrong hash, and for a file that hsyn did not make.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as tensors_from

    path = find(name_or_path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"checkpoint {path}: {error.strerror}", "check the file's permissions"
        ) from error
    sha256 = hashlib.sha256(data).hexdigest()
    listed = [entry for entry in _manifest(path.parent).values() if entry["file"] == path.name]
    if any(entry["sha256"] != sha256 for entry in listed):
        hint = f"{MANIFEST} lists another hash for this file; download it again"
        raise WeightsError(f"checkpoint {path} has a wrong SHA-256 ({sha256[:12]}...)", hint)
    header = _header(path, data)
    try:
        about = json.loads(header["__metadata__"]["hsyn"])
        config, training = dict(about["config"]), dict(about["training"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"checkpoint {path} was not made by hsyn", "give a checkpoint of `hsyn train`"
        ) from error
    try:
        tensors = tensors_from(data)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"checkpoint {path} is damaged: {error}", "download or copy the file again"
        ) from error
    return Checkpoint(path.stem, path, sha256, config, training, tensors, verified=bool(listed))


def available(count: bool = True) -> list[CheckpointInfo]:
    """All checkpoints of all manifests, without importing torch. Raises WeightsError.

    `count`: read their numbers of parameters from the files.
    """
    infos: dict[str, CheckpointInfo] = {}
    for folder in folders():
        for name, entry in _manifest(folder).items():
            path = folder / entry["file"]
            info = CheckpointInfo(
                name,
                path,
                entry["sha256"],
                str(entry.get("training_data", "")),
                str(entry.get("licence", "")),
                dict(entry.get("scores", {})),
                _parameters(path) if count and os.access(path, os.R_OK) else 0,
            )
            infos.setdefault(name, info)
    return list(infos.values())


def problem_of(info: CheckpointInfo) -> str:
    """What is wrong with the file of a checkpoint, in a few words; "" if its hash is right."""
    try:
        data = info.path.read_bytes()
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    sha256 = hashlib.sha256(data).hexdigest()
    return "" if sha256 == info.sha256 else f"the file has a wrong SHA-256 ({sha256[:12]}...)"


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
) -> str:
    """Write a checkpoint, whole or not at all, and return its SHA-256.

    Equal content gives equal bytes. `config` and `training` must be JSON-ready. Raises OutputError.
    """
    from safetensors.torch import save as to_bytes

    about = json.dumps({"config": dict(config), "training": dict(training or {})}, sort_keys=True)
    own = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    data = to_bytes(own, {"hsyn": about})
    atomic.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def publish(path: Path, *, training_data: str, licence: str, scores: Mapping[str, Any]) -> None:
    """Add the checkpoint at `path` to the manifest beside it. Raises WeightsError, OutputError."""
    manifest = _manifest(path.parent)
    manifest[path.stem] = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "training_data": training_data,
        "licence": licence,
        "scores": dict(scores),
    }
    atomic.write_text(
        path.parent / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    )


def check_tensors(expected: Mapping[str, tuple[int, ...]], checkpoint: Checkpoint) -> None:
    """Raise WeightsError unless `checkpoint` has exactly the tensors `expected`: {name: shape}."""
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    problems = {
        "misses": [name for name in expected if name not in shapes],
        "has unknown": [name for name in shapes if name not in expected],
        "has other shapes in": [
            name for name in expected if name in shapes and shapes[name] != tuple(expected[name])
        ],
    }
    for verb, names in problems.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            text = f"checkpoint {checkpoint.path} {verb} tensors: {', '.join(names[:SHOWN])}{more}"
            raise WeightsError(text, "the file is incomplete, or another version of hsyn made it")


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest of a folder; {} if it has none."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest.values():
            if Path(entry["file"]).name != entry["file"] or len(entry["sha256"]) != 64:
                raise ValueError("file must be a plain name, sha256 must have 64 digits")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"manifest {path} is damaged: {error}", "install hsyn again, or repair the file"
        ) from error
    return manifest


def _header(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON header at the start of a safetensors file; `data` may end after it."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
        if not isinstance(header, dict) or len(data) < 8 + length:
            raise ValueError("no header")
    except (struct.error, ValueError) as error:
        raise WeightsError(
            f"checkpoint {path} is not a safetensors file, or damaged", "download or copy it again"
        ) from error
    return header


def _parameters(path: Path) -> int:
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        header = _header(path, start + stream.read(min(length, 100_000_000)))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for extent in tensor["shape"]:
                count *= int(extent)
            total += count
    return total
