"""What hsyn sees in one image file: its header, its values, what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hsyn_cli.checks.findings import Finding, findings
from hsyn_cli.errors import HsynError
from hsyn_cli.io import headers
from hsyn_cli.space import Grid, nearest_lps, to_ras

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.anatomy.organs import Look
    from hsyn_cli.anatomy.view import View

OBLIQUE = 1.0  # degrees; smaller turns are not told


@dataclass(frozen=True)
class Seen:
    """What an image shows.

    Attributes:
        low, high: of its values as read.
        kind: what hsyn takes it for. contrast: in a few words, or "".
        litres: of its content.
        checkpoint: that for two such images, or "none". why: why there is none.
        note: what hsyn changes in its grey values, as `View.note`.
    """

    low: float
    high: float
    kind: str
    contrast: str
    litres: float
    checkpoint: str
    why: str = ""
    note: str = ""


@dataclass(frozen=True)
class ImageCheck:
    """An image file.

    Attributes:
        role: "image", "moving image" or "fixed image".
        path: as given.
        format, size, voxel_mm, orientation, type: of the file; empty if no header can be read. The
            letters of the orientation tell to where x, y and z lead.
        oblique_degrees: between the axes and the nearest ones of the body.
        findings: about the header.
        warnings: what hsyn tells when it reads it.
        seen: None if it cannot be used.
        refused: why it cannot be used.
    """

    role: str
    path: str
    format: str = ""
    size: tuple[int, ...] = ()
    voxel_mm: tuple[float, ...] = ()
    orientation: str = ""
    oblique_degrees: float = 0.0
    type: str = ""
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    seen: Seen | None = None
    refused: HsynError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-ready data."""
        own = {**vars(self), "findings": [vars(finding) for finding in self.findings]}
        own["seen"] = None if self.seen is None else vars(self.seen)
        return {**own, "refused": refusal(self.refused)}


def refusal(error: HsynError | None) -> dict[str, Any] | None:
    """An error as JSON-ready data."""
    if error is None:
        return None
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def check_image(path: Path, role: str = "image") -> ImageCheck:
    """Read an image, and tell what hsyn takes it for. It raises nothing: see `refused`."""
    from hsyn_cli.anatomy import organs
    from hsyn_cli.anatomy.view import view_of
    from hsyn_cli.io.images import read_image

    try:
        head = check_header(path, role)
        scan = read_image(path, role)
    except HsynError as error:
        return refused(path, role, error)
    view = view_of(scan.image)
    return with_content(head, scan.warnings, scan.image, view, organs.look(view.image))


def refused(path: Path, role: str, error: HsynError) -> ImageCheck:
    """An image that cannot be used, with what can be told of its header."""
    try:
        head = check_header(path, role)
    except HsynError:
        head = ImageCheck(role, str(path))
    return ImageCheck(**{**vars(head), "refused": error})


def check_header(path: Path, role: str) -> ImageCheck:
    """What the header tells. Raises InputError, GeometryError."""
    import nibabel as nib

    header = headers.read(path, role)
    grid = header.grid
    letters = "".join(nib.aff2axcodes(to_ras(grid)))
    flat = grid.dimension == 2
    return ImageCheck(
        role,
        str(path),
        header.kind,
        header.dim[:2] if flat and len(header.dim) == 3 else header.dim,
        grid.spacing[: grid.dimension],
        letters[: grid.dimension],
        oblique(grid),
        _stored(header),
        findings(header),
    )


def oblique(grid: Grid) -> float:
    """The largest angle in degrees between an axis of a grid and the nearest one of the body."""
    cosines = np.diag(nearest_lps(grid.axes)).clip(-1, 1)
    return float(np.degrees(np.arccos(cosines)).max())


def with_content(
    head: ImageCheck, warnings: tuple[str, ...], image: sitk.Image, view: View, look: Look
) -> ImageCheck:
    """`head` and what the image holds and shows."""
    import SimpleITK as sitk

    from hsyn_cli.anatomy import organs
    from hsyn_cli.anatomy.size import Extent

    values = sitk.GetArrayViewFromImage(image)
    kinds, both = {"image": look.kind}, (view.image, view.image)
    fitting = [organ for organ in map(organs.find, organs.names()) if look.kind in organ.kinds]
    judged = fitting[0].contrast(view.image, look) if fitting else ""
    extent = Extent.of(view.image, look.grey)
    seen = Seen(
        float(values.min()),
        float(values.max()),
        look.kind,
        "Hounsfield units" if look.grey.hounsfield else judged,
        1e-6 * extent.content if extent.dimensions == 3 else float("nan"),
        organs.checkpoint_for(None, kinds, both),
        organs.why_none(kinds, both),
        view.note,
    )
    return ImageCheck(**{**vars(head), "warnings": warnings, "seen": seen})


def _stored(header: headers.Header) -> str:
    """The type of the numbers in the file, and their scaling."""
    if header.dtype is None:
        return ""
    scale = "" if (header.slope, header.inter) == (1.0, 0.0) else ", scaled"
    many = f" x {header.components}" if header.components > 1 else ""
    return f"{header.dtype.name}{many}{scale}"
