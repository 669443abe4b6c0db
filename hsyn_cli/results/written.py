"""Write the files of a registration together, and read them back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from hsyn_cli.errors import InputError
from hsyn_cli.io import atomic, images, writing
from hsyn_cli.io.images import Scan
from hsyn_cli.io.transforms import read_transform, write_transform
from hsyn_cli.method.result import Outcome, Registration
from hsyn_cli.results import page
from hsyn_cli.results.page import tables, volumes
from hsyn_cli.results.report import Report, to_dict, to_json
from hsyn_cli.results.run_folder import (
    FOLDER_FILES,
    MIDSPACE_FILES,
    PAGE,
    WARPED,
    Wanted,
    read_report,
    targets,
)
from hsyn_cli.space import Grid
from hsyn_cli.space.planes import raised
from hsyn_cli.tools.labels import warp_labels


def write(
    result: Registration,
    wanted: Wanted,
    staging: atomic.Staging,
    make_report: Callable[[], Report],
    *,
    moving_labels: sitk.Image | None = None,
    keep: Iterable[Path] = (),
) -> Report:
    """Write all files, put them in place together, and return the report.

    `make_report` runs after all other files but the page are written, so that it includes their
    time. `keep`: files that stay, even if an earlier run wrote them. If this raises
    OutputError, it leaves none of the files.
    """
    paths = {name: staging.path(path) for name, path in targets(wanted).items()}
    dimension = Grid.of(result.fixed).dimension
    pictures = {
        "forward_field": result.forward_field,
        "inverse_field": result.inverse_field,
        "warped": result.warped,
        "inverse_warped": result.inverse_warped,
    }
    if wanted.ants_prefix is not None:
        pictures |= {
            "ants_warp": result.warp_field,
            "ants_inverse_warp": result.inverse_warp_field,
        }
        write_transform(result.affine, paths["ants_affine"], dimension)
    if wanted.midspace:
        half = result.midspace
        pictures |= {
            "mid_to_moving_field": half.to_moving_field,
            "mid_to_fixed_field": half.to_fixed_field,
            "mid_moving": half.moving,
            "mid_fixed": half.fixed,
        }
    for k, images_of in enumerate(result.others, 2):
        pictures |= {f"{name}_{k}": i for name, i in zip(WARPED, images_of, strict=True)}
    if moving_labels is not None:
        pictures["warped_labels"] = warp_labels(moving_labels, raised(result.forward_field))
    write_transform(result.affine, paths["affine"], dimension)
    for name, picture in pictures.items():  # no threads: ITK's writer holds Python's lock
        writing.write_image(picture, paths[name])
    if wanted.ants_prefix is not None:
        for name in ("warped", "inverse_warped"):
            atomic.copy(paths[name], paths[f"ants_{name}"])
    page_data = volumes.page_volumes(result) if wanted.html else None
    report = make_report()
    atomic.write_text(paths["report"], to_json(report))
    if page_data is not None:
        atomic.write_text(paths["page"], page.make_page(to_dict(report), page_data))
    optional = {PAGE, "warped_labels.nii.gz", *MIDSPACE_FILES.values()}
    optional |= _channel_files(wanted.folder)
    unwanted = optional - {path.name for path in paths.values()}
    old = {wanted.folder / name for name in unwanted}  # from an earlier run
    staging.remove(path for path in sorted(old) if not any(_same(path, kept) for kept in keep))
    staging.commit()
    return report


def _channel_files(folder: Path) -> set[str]:
    """The names of the files of further channels that an earlier run lists in its report.json."""
    try:
        outputs = read_report(folder)["outputs"]
    except (InputError, KeyError):
        return set()
    wanted = re.compile(rf"(?:{'|'.join(WARPED)})_\d+")
    return {Path(path).name for name, path in outputs.items() if wanted.fullmatch(name)}


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
