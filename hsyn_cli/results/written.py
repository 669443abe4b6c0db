"""Write the files of a registration together, and read them back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from hsyn_cli.errors import InputError
from hsyn_cli.fields.compact import compact_field, compact_image
from hsyn_cli.fields.grids import ErrorStats
from hsyn_cli.io import atomic, images, writing
from hsyn_cli.io.composites import Step, write_composite
from hsyn_cli.io.images import Scan
from hsyn_cli.io.transforms import read_transform, write_transform
from hsyn_cli.method.result import Outcome, Registration
from hsyn_cli.results import page
from hsyn_cli.results.page import tables, volumes
from hsyn_cli.results.report import Report, Stored, to_dict, to_json
from hsyn_cli.results.run_folder import (
    FOLDER_FILES,
    PAGE,
    REPORT,
    WARPED,
    Wanted,
    read_report,
    targets,
)
from hsyn_cli.space import Grid
from hsyn_cli.space.planes import raised
from hsyn_cli.tools.labels import warp_labels

COMPOSITES = {"ants_warp": "ants_composite", "ants_inverse_warp": "ants_inverse_composite"}


def write(
    result: Registration,
    wanted: Wanted,
    staging: atomic.Staging,
    make_report: Callable[[], Report],
    *,
    moving_labels: sitk.Image | None = None,
    spared: Iterable[Path] = (),
) -> Report:
    """Write all files, put them in place together, and return the report.

    `make_report` runs after all other files but the page are written, so that it includes their
    time. `spared`: files that stay, even if an earlier run wrote them. If this raises OutputError,
    it leaves none of the files.
    """
    final = targets(wanted)
    paths = {name: staging.path(path) for name, path in final.items()}
    dimension = Grid.of(result.fixed).dimension
    for name in ("affine", "ants_affine"):
        if name in paths:
            write_transform(result.affine, paths[name], dimension)
    errors: dict[str, ErrorStats] = {}
    shares: dict[str, float] = {}
    for name, picture in _pictures(result, paths.keys(), moving_labels):
        composite = paths.get(COMPOSITES.get(name, ""))
        if picture.GetNumberOfComponentsPerPixel() > 1:
            if wanted.rounded or wanted.field_spacing:
                every = wanted.field_spacing
                picture, error = compact_field(picture, every, rounded=wanted.rounded)
                errors |= {k: error for k in (name, COMPOSITES.get(name)) if k in paths}
        elif wanted.rounded and name != "warped_labels":
            picture, share = compact_image(picture)
            shares[name] = 100 * share
        if name in paths:
            writing.write_image(picture, paths[name])  # no threads: ITK holds Python's lock
        if composite is not None:
            write_composite(_steps(name, picture, result.affine), composite, dimension)
        twin = f"ants_{name}"
        if name in WARPED and twin in paths:
            atomic.copy(paths[name], paths[twin])
    page_data = volumes.page_volumes(result) if "page" in paths else None
    stored = Stored(wanted.field_spacing, wanted.rounded, errors, shares)
    report = replace(make_report(), stored=stored)
    if "report" in paths:
        atomic.write_text(paths["report"], to_json(report))
        old = _earlier(final["report"]) - set(final.values()) if wanted.clears else set()
        staging.remove(
            path for path in sorted(old) if not any(_same(path, kept) for kept in spared)
        )
    if page_data is not None:
        atomic.write_text(paths["page"], page.make_page(to_dict(report), page_data))
    staging.commit()
    return report


def _steps(name: str, field: sitk.Image, affine: sitk.Transform) -> tuple[Step, Step]:
    """The ways of points through ANTs' 1Warp and affine, or back through both."""
    return (field, affine) if name == "ants_warp" else (affine.GetInverse(), field)


def _pictures(
    result: Registration, names: Collection[str], moving_labels: sitk.Image | None
) -> Iterator[tuple[str, sitk.Image]]:
    """The images and fields of these names, each made when it is due."""
    mine = {"ants_warp": "warp_field", "ants_inverse_warp": "inverse_warp_field"}
    plain = ("forward_field", "inverse_field", *WARPED)
    for name in (*plain, *mine):
        if name in names or COMPOSITES.get(name) in names:
            yield name, getattr(result, mine.get(name, name))
    for name in WARPED:
        if name not in names and f"ants_{name}" in names:
            yield f"ants_{name}", getattr(result, name)
    for k, images_of in enumerate(result.others, 2):
        for name, image in zip(WARPED, images_of, strict=True):
            if f"{name}_{k}" in names:
                yield f"{name}_{k}", image
    if "mid_moving" in names:
        half = result.midspace
        yield "mid_to_moving_field", half.to_moving_field
        yield "mid_to_fixed_field", half.to_fixed_field
        yield "mid_moving", half.moving
        yield "mid_fixed", half.fixed
    if moving_labels is not None and "warped_labels" in names:
        yield "warped_labels", warp_labels(moving_labels, raised(result.forward_field))


def _earlier(report: Path) -> set[Path]:
    """The files of an earlier run beside its report; those of ANTs left out.

    They are those that it lists, and the page that `hsyn report` may have added.
    """
    try:
        outputs = read_report(report.parent, report.name)["outputs"]
    except (InputError, KeyError):
        return set()
    names = {Path(path).name for name, path in outputs.items() if not name.startswith("ants_")}
    if report.name == REPORT:
        names.add(PAGE)
    return {report.parent / name for name in names}


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


@dataclass(frozen=True)
class Finished(Outcome):
    """A registration read back from its output folder; `report`: the content of report.json."""

    report: Mapping[str, Any]


def read(
    folder: Path,
    moving: Path | None = None,
    fixed: Path | None = None,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> Finished:
    """Read the files that `write` wrote, and the two registered images.

    Args:
        moving, fixed: paths of the images; None: the paths in report.json.

    Raises:
        InputError: the folder holds no run of this version; or a file or an image is missing or
            damaged, or an image is not the registered one by its SHA-256.
    """
    report = read_report(folder)
    for name in ("warped", "forward_field", "inverse_field", "affine"):
        if name not in report["outputs"]:
            raise InputError(
                f"{folder} lacks {FOLDER_FILES[name]}, which --keep left out",
                "register the pair again without --keep",
            )
    scans: dict[str, Scan] = {}
    for side, path in (("moving", moving), ("fixed", fixed)):
        progress("reading images", 0.1 * len(scans))
        scans[side] = _registered_image(report["inputs"][side], side, path)
    paths = {name: folder / file for name, file in FOLDER_FILES.items()}
    warped = images.read_image(paths["warped"], "warped image")
    fields = []
    for share, name in ((0.25, "forward_field"), (0.6, "inverse_field")):
        progress("reading fields", share)
        fields.append(images.read_field(paths[name], name.replace("_", " ")).image)
    affine = read_transform(paths["affine"], "affine").transform
    moved, still = scans["moving"].image, scans["fixed"].image
    return Finished(moved, still, affine, fields[0], fields[1], warped.image, report)


def _registered_image(source: Mapping[str, str], side: str, given: Path | None) -> Scan:
    path = given or Path(source["path"])
    if not path.exists():
        raise InputError(
            f"{side} image {path}: no such file",
            f"if its path changed, give the new one: --{side} FILE",
        )
    scan = images.read_image(path, f"{side} image")
    if scan.sha256 != source["sha256"]:
        raise InputError(
            f"{side} image {path} is not the file that was registered (its SHA-256 differs)",
            f"give the registered file: --{side} FILE",
        )
    return scan


@dataclass(frozen=True)
class Page:
    """A rewritten page."""

    path: Path
    size: int  # bytes
    verdict: str


def report_files(
    folder: Path,
    moving: Path | None = None,
    fixed: Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> Page:
    """Rewrite report.html of an output folder. Raises OutputError and the errors of `read`."""
    read_report(folder)
    target = folder / PAGE
    with atomic.claim([target], force=force) as staging:
        run = read(folder, moving, fixed, lambda step, share: progress(step, 0.7 * share))
        progress("drawing", 0.7)
        text = page.make_page(run.report, volumes.page_volumes(run))
        atomic.write_text(staging.path(target), text)
        staging.commit()
    return Page(target, len(text.encode()), tables.verdict(run.report)[1])
