"""Map the Jacobian determinant of a displacement field and measure folding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from hsyn_cli.fields.folding import (
    LEAST_FOR_LOG,
    Folding,
    determinants,
    log_determinant,
    measure_folding,
)
from hsyn_cli.io import atomic, files, images, writing
from hsyn_cli.io.images import ImageLike, as_field
from hsyn_cli.space import Grid, field_from_lps
from hsyn_cli.space.planes import lowered


@dataclass(frozen=True)
class Jacobian:
    """A map of the determinant, with folding.

    Attributes:
        image: determinant, or its natural logarithm, float32 on the field's grid; at the border
            from one-sided differences.
        clipped: number of voxels that hold log(1e-9) = -20.7 because their determinant is smaller;
            0 without `log`.
    """

    image: sitk.Image
    folding: Folding
    log: bool
    clipped: int

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-ready data, without the image."""
        return {
            "folding": dataclasses.asdict(self.folding),
            "log": self.log,
            "clipped": self.clipped,
        }


def jacobian(field: ImageLike, *, log: bool = False) -> Jacobian:
    """Map the determinant of a displacement field (vector image, mm, LPS).

    The derivatives are central differences in mm along the grid's axes.
    """
    field = as_field(field)
    grid = Grid.of(field)
    u = torch.from_numpy(field_from_lps(field))[None]
    det, corner = determinants(u, grid.spacing)
    values = log_determinant(det[0]) if log else det[0]
    image = lowered(grid.stamp(sitk.GetImageFromArray(values.float().numpy())))
    clipped = int((det < LEAST_FOR_LOG).sum()) if log else 0
    return Jacobian(image, measure_folding(grid, det, corner), log, clipped)


@dataclass(frozen=True)
class JacobianFile:
    """The map, its file `output`, and warnings about the field."""

    result: Jacobian
    output: Path
    warnings: tuple[str, ...]


def jacobian_files(
    field: Path,
    out: Path | None = None,
    *,
    log: bool = False,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> JacobianFile:
    """Write the map of the field in a file to `out`, by default beside it; see `jacobian`.

    Raises UsageError, InputError, GeometryError, OutputError.
    """
    target = out or files.beside(field, "_log_jacobian.nii.gz" if log else "_jacobian.nii.gz")
    files.check_image_names([target])
    with atomic.claim([target], force=force, inputs=[field]) as staging:
        progress("reading", 0.0)
        read = images.read_field(field, either_way=True)
        progress("determinants", 0.3)
        result = jacobian(read.image, log=log)
        progress("writing", 0.7)
        writing.write_image(result.image, staging.path(target))
        staging.commit()
    return JacobianFile(result, target, read.warnings)
