"""Write images with headers that all programs read alike, where that takes no guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsyn_cli.checks.findings import Finding, findings
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io import atomic, files, headers, voxels
from hsyn_cli.io.endings import IMAGES, ends


@dataclass(frozen=True)
class Repaired:
    """A file that was written: for which one, and what is new in its header."""

    source: str
    path: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    header: headers.Header
    target: Path
    changes: tuple[str, ...]


def write_repaired(sources: Sequence[Path], out: Path, *, force: bool = False) -> list[Repaired]:
    """Write those of the images whose headers have something to repair: all of them, or none.

    The voxels keep their values. `out`: the file for one image, a folder for several.

    Raises:
        InputError: an image cannot be read, or a repair would have to guess. UsageError: `out` has
            a name of the wrong kind, or two images have one name. OutputError.
    """
    plans = [_plan(path, target) for path, target in _targets(sources, out)]
    plans = [plan for plan in plans if plan.changes]
    from hsyn_cli.io.writing import write_image

    targets = [plan.target for plan in plans]
    with atomic.claim(targets, force=force, inputs=sources) as staging:
        for plan in plans:
            image, _ = voxels.load(plan.header, "image")
            write_image(image, staging.path(plan.target))
        if plans:
            staging.commit()
    return [Repaired(str(plan.header.path), str(plan.target), plan.changes) for plan in plans]


def _targets(sources: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """The file for each image."""
    if len(sources) == 1 and not out.is_dir():
        files.check_image_names([out])
        return [(sources[0], out)]
    if ends(out, IMAGES):
        text = f"{out} is the name of one image, and {len(sources)} are given"
        raise UsageError(text, "give a folder")
    by_name: dict[str, Path] = {}
    for path in sources:
        twin = by_name.setdefault(path.name, path)
        if twin != path:
            text = f"{twin} and {path} would become one file in {out}"
            raise UsageError(text, "repair them one by one")
    files.check_image_names(map(Path, by_name))
    return [(path, out / name) for name, path in by_name.items()]


def _plan(path: Path, target: Path) -> _Plan:
    header = headers.read(path, "image")
    name = f"image {path}"
    if header.components > 1 or header.volumes > 1:
        text = f"{name} holds {header.shape} voxels, not one 3-D image of scalars"
        raise InputError(text, "extract one volume first")
    found = findings(header)
    _refuse_guesses(found, name)
    changes = tuple(dict.fromkeys(finding.repaired for finding in found if finding.repaired))
    return _Plan(header, target, changes)


def _refuse_guesses(found: Sequence[Finding], name: str) -> None:
    for finding in found:
        if finding.guess:
            text = f"{name}: a repair would be a guess: {finding.text}"
            raise InputError(text, "look at the image in a viewer, and set the right form yourself")
