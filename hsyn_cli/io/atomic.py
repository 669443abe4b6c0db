"""Write outputs whole and together, or not at all, whatever ends the run.

They are written into staging folders beside their places and moved at the end. What a killed run
left there, the next run in that folder finishes, if the moves had begun, or clears.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hsyn_cli.errors import HsynError, OutputError
from hsyn_cli.io.staging import Staging, clear, nearest
from hsyn_cli.io.staging_folders import FREE_HINT, StagingFolder, output_error
from hsyn_cli.io.undisturbed import undisturbed

__all__ = [
    "FREE_HINT",
    "Staging",
    "check_space",
    "claim",
    "clear",
    "commits",
    "copy",
    "making",
    "output_error",
    "replacing",
    "write_bytes",
    "write_text",
]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same name, in a staging folder beside `path`.

    It becomes `path` at the end, and vanishes on any failure. Raises OutputError for every OSError
    inside.
    """
    made: list[StagingFolder] = []
    try:
        undisturbed(lambda: made.append(StagingFolder(path.parent)))
        temporary = made[0].new / path.name
        with _naming({temporary: path}):
            yield temporary
        made[0].check_room()
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        for folder in made:
            undisturbed(folder.close)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all. Raises OutputError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `path` as UTF-8, whole or not at all. Raises OutputError."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all. Raises OutputError."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def claim(
    targets: Iterable[Path], *, force: bool = False, inputs: Iterable[Path] = ()
) -> Iterator[Staging]:
    """Check before any work that all `targets` can be written, and yield a place to write them.

    Raises OutputError if a target exists (unless `force`), is a folder or is one of the `inputs`;
    if two targets are one file when case does not count; if another run writes one of them; if a
    folder cannot be created or written to, or takes no such name. Without `Staging.commit` nothing
    remains.
    """
    targets = list(targets)
    _refuse_inputs(targets, inputs)
    staging = Staging(targets, force=force)
    try:
        undisturbed(staging.open)
        with _naming({staging.path(target): target for target in targets}):
            yield staging
    finally:
        undisturbed(staging.close)


@contextlib.contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a folder, with those above it, and remove them again if they stay empty.

    Raises OutputError.
    """
    made: list[Path] = []
    try:
        try:
            real = Path(os.path.realpath(folder))
            base = nearest(real)
            for missing in reversed([p for p in (real, *real.parents) if base in p.parents]):
                missing.mkdir(exist_ok=True)
                made.append(missing)
        except OSError as error:
            raise output_error(folder, error) from error
        yield
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()


def commits() -> int:
    """How many times this process has put the outputs of a `claim` in place."""
    return Staging.committed


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError if less than `needed` bytes are free on the disk of `folder`.

    It need not exist yet.
    """
    try:
        free = shutil.disk_usage(nearest(Path(os.path.realpath(folder)))).free
    except OSError as error:
        raise output_error(folder, error) from error
    if free < needed:
        amounts = f"{needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        raise OutputError(f"{folder}: no space left to write to it ({amounts})", FREE_HINT)


def _refuse_inputs(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse targets that are inputs or one another."""
    sources = set()
    for path in inputs:
        with contextlib.suppress(OSError, ValueError):  # its reader will tell
            sources.add(os.path.realpath(path))
    by_name: dict[str, Path] = {}
    for target in targets:
        try:
            real, name = os.path.realpath(target), str(target.absolute()).casefold()
        except (OSError, ValueError) as error:  # no current folder; a zero byte
            raise output_error(target, error) from error
        if real in sources:
            raise OutputError(
                f"{target} is an input of this run and would be overwritten",
                "choose another folder",
            )
        twin = by_name.setdefault(name, target)
        if twin is not target:
            raise OutputError(
                f"{twin} and {target} are one file on some disks", "give them different names"
            )


@contextlib.contextmanager
def _naming(names: Mapping[Path, Path]) -> Iterator[None]:
    """Let errors name the final paths in place of the temporary ones: {temporary: final}."""
    try:
        yield
    except HsynError as error:
        folders = {path.parent: final.parent for path, final in names.items()}
        for path, final in (*names.items(), *sorted(folders.items(), reverse=True)):
            error.message = error.message.replace(str(path), str(final))
        error.args = (error.message,)
        raise
