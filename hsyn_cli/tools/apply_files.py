"""Move files through a chain of transforms: images, label maps, 4-D series and points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from hsyn_cli.errors import InputError
from hsyn_cli.io import atomic, files, images, points, series, writing
from hsyn_cli.space import Grid
from hsyn_cli.tools import chain, held, labels
from hsyn_cli.tools.apply import EXACT, FOR_LABELS, Settings, move
from hsyn_cli.tools.chain import Chain

DEFAULTS = Settings()


@dataclass(frozen=True)
class Moved:
    """The result for a file of `count` volumes or points. `changes`: of labels, for one volume."""

    path: Path
    sha256: str
    count: int
    changes: tuple[labels.Change, ...] = ()
    warnings: tuple[str, ...] = ()


def move_file(
    path: Path,
    out: Path,
    links: Chain,
    reference: Grid,
    settings: Settings,
    progress: Callable[[float], None],
) -> Moved:
    """Read an image or a 4-D series, check that it meets the reference, move it, and write `out`.

    `progress` gets the share done. Raises InputError, GeometryError, UsageError, OutputError.
    """
    transform = links.transform
    source = series.find(path)
    if source is not None:
        held.check(str(path), settings.holds, 1, source.count)
        chain.check_image(links, reference, images.read_grid(path), str(path))
        volumes = series.volumes(source)
        series.write(_each(volumes, source, reference, transform, settings, progress), source, out)
        return Moved(path, source.sha256, source.count, warnings=source.warnings)
    scan = images.read_any(path)
    held.check(str(path), settings.holds, scan.image.GetNumberOfComponentsPerPixel())
    if settings.interpolation in FOR_LABELS:
        scan = images.whole_numbers(scan)
    warnings = scan.warnings
    chain.check_image(links, reference, Grid.of(scan.image), str(path))

    def part(share: float) -> None:
        progress(0.9 * share)

    if settings.holds == "vector":
        image = held.turned(scan.image, Grid.of(scan.image).axes)
        moved = move(image, reference, transform, settings, part)
        moved = held.turned(moved, reference.axes.T)
    else:
        moved = move(scan.image, reference, transform, settings, part)
    changes: tuple[labels.Change, ...] = ()
    if settings.interpolation in EXACT and scan.image.GetNumberOfComponentsPerPixel() == 1:
        try:
            before, after = (
                images.whole_numbers(images.Scan(i, path, "")) for i in (scan.image, moved)
            )
            changes = labels.changes(before.image, after.image)
        except InputError:
            warnings += (f"{path} holds fractional values: moved as an image, not as labels",)
    progress(0.9)
    writing.write_image(moved, out)
    return Moved(path, scan.sha256, 1, changes, warnings)


def move_point_file(path: Path, out: Path, links: Chain) -> Moved:
    """Move the points of a CSV or VTK file through the chain and write them to `out`.

    Raises InputError, GeometryError, OutputError.
    """
    file = points.read(path, dimension=links.dimension)
    moved, warnings = chain.move_points(links, file.points)
    atomic.write_bytes(out, file.rewritten(moved))
    return Moved(path, file.sha256, len(moved), (), warnings)


def _each(
    volumes: Iterator[sitk.Image],
    source: series.Series,
    reference: Grid,
    transform: sitk.Transform,
    settings: Settings,
    progress: Callable[[float], None],
) -> Iterator[sitk.Image]:
    for k, volume in enumerate(volumes):
        progress(k / source.count)
        if settings.interpolation in FOR_LABELS:
            volume = images.whole_numbers(images.Scan(volume, source.path, "")).image
        yield move(volume, reference, transform, settings)


@dataclass(frozen=True)
class Applied:
    """The result of `apply_files`: the chain, one `Moved` per output, and warnings."""

    chain: Chain
    moved: tuple[Moved, ...]
    outputs: tuple[Path, ...]
    warnings: tuple[str, ...]


def apply_files(
    inputs: Sequence[Path],
    point_files: Sequence[Path],
    transforms: Sequence[str],
    outputs: Sequence[Path],
    *,
    reference: Path | None = None,
    settings: Settings = DEFAULTS,
    dimension: int | None = None,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> Applied:
    """Move images or points, and write one output for each: all of them or none.

    Args:
        inputs, point_files: one of the two is empty.
        transforms: as on the command line, see `chain.parse`; none: images only meet `reference`.
        reference: image whose grid the outputs get; None: the grid of the first transform.
        dimension: of the transforms; None: 2 or 3.

    Raises:
        UsageError, InputError, GeometryError, OutputError: see `errors`.
    """
    typed = [chain.parse(text)[0] for text in transforms]
    if inputs:
        files.check_image_names(outputs)
    sources = [*inputs, *point_files, *typed, *([reference] if reference else [])]
    with atomic.claim(outputs, force=force, inputs=sources) as staging:
        progress("reading", 0.0)
        links = chain.read(transforms) if transforms or not reference else still(reference)
        chain.check_dimension(links, dimension)
        places = [staging.path(output) for output in outputs]
        if point_files:
            moved = [
                move_point_file(*each, links) for each in zip(point_files, places, strict=True)
            ]
            warnings = links.warnings
        else:
            grid = chain.reference_grid(links, reference)
            warnings = links.warnings + chain.check_fields(links, grid)
            moved = _move_images(inputs, places, links, grid, settings, progress)
        staging.commit()
    return Applied(links, tuple(moved), tuple(outputs), warnings)


def still(reference: Path) -> Chain:
    """A chain that moves nothing, of the dimension of an image."""
    dimension = images.read_grid(reference).dimension
    return Chain((chain.Link(sitk.AffineTransform(3), "identity", dimension=dimension),))


def _move_images(
    inputs: Sequence[Path],
    places: Sequence[Path],
    links: Chain,
    grid: Grid,
    settings: Settings,
    progress: Callable[[str, float], None],
) -> list[Moved]:
    moved = []
    for k, (path, out) in enumerate(zip(inputs, places, strict=True)):

        def share(done: float, k: int = k, name: str = path.name) -> None:
            progress(name, (k + done) / len(places))

        share(0.0)
        moved.append(move_file(path, out, links, grid, settings, share))
    return moved
