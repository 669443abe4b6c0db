"""A visit in the space of the group: its fields through its subject's own template, composed.

W takes a point of the subject's template to the visit, G a point of the group's template to the
subject's. Then W o G takes a point of the group's template to the visit, and the inverse fields
lead back. Fields are trilinear inside their grids, and go on outside as the affine map nearest to
them with the displacement of the border beyond it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsyn_cli.fields.compact import compact_field, compact_image
from hsyn_cli.fields.folding import determinants, measure_folding
from hsyn_cli.fields.grids import affine_displacement, along_axes, sample_mm
from hsyn_cli.fields.images import as_transform, from_image, to_image
from hsyn_cli.fields.mutual import RoundTrips
from hsyn_cli.fields.sampling import rotate
from hsyn_cli.io import atomic
from hsyn_cli.io.images import read_field, read_image
from hsyn_cli.io.plain import dump
from hsyn_cli.io.transforms import read_transform
from hsyn_cli.io.writing import write_image
from hsyn_cli.space import Array, Grid, affine_parts
from hsyn_cli.space.planes import raised
from hsyn_cli.template import averages, finish
from hsyn_cli.template.scans import load
from hsyn_cli.template.subjects import Subject
from hsyn_cli.tools.jacobian import jacobian

ENTRY = "visit.json"
FILES = {
    "forward_field": "forward_field.nii.gz",
    "inverse_field": "inverse_field.nii.gz",
    "warped": "warped.nii.gz",
    "total_log_jacobian": "total_log_jacobian.nii.gz",
    "within_log_jacobian": "within_log_jacobian.nii.gz",
}


@dataclass(frozen=True)
class Link:
    """Both fields of a template and what was registered to it, as a template's folder has them."""

    forward: Tensor
    inverse: Tensor
    template: Grid
    scan: Grid
    affine: tuple[Array, Array]

    @classmethod
    def of(cls, folder: Path) -> Link:
        """Those in a folder subjects/ID. Raises InputError."""
        there = raised(read_field(folder / finish.FILES["forward_field"], "forward field").image)
        back = raised(read_field(folder / finish.FILES["inverse_field"], "inverse field").image)
        a, t = affine_parts(read_transform(folder / finish.FILES["affine"], "affine").transform)
        return cls(from_image(there), from_image(back), Grid.of(there), Grid.of(back), (a, t))

    def then(self, other: Link) -> Link:
        """From the template of this one to the scan of `other`, whose template this one's scan is.

        Both ways: F(p) = W(G(p)), and back q -> G^-1(W^-1(q)).
        """
        (a, t), (b, s) = self.affine, other.affine
        forward = _after(self.forward, self.template, other.forward, other.template, (b, s))
        back: Array = np.linalg.inv(a).astype(np.float64)
        inverse = _after(other.inverse, other.scan, self.inverse, self.scan, (back, -back @ t))
        return Link(forward, inverse, self.template, other.scan, (b @ a, b @ t + s))


def _after(
    first: Tensor, grid: Grid, second: Tensor, on: Grid, affine: tuple[Array, Array]
) -> Tensor:
    """p -> q + second(q) - p at q = p + first(p), for p on `grid`; `second` is near to `affine`."""
    a, t = affine
    points = affine_displacement(grid, np.eye(3), np.zeros(3), first.device, absolute=True)
    points += first
    beyond = second - affine_displacement(on, a, t, second.device)
    moved = sample_mm(beyond, on, points).add_(first)
    offset = torch.from_numpy(t).float().view(1, 3, 1, 1, 1)
    return moved.add_(rotate(a - np.eye(3), points)).add_(offset)


@dataclass(frozen=True)
class Carried:
    """Where the files of a visit come from and go.

    Attributes:
        group: the folder of the subject in the group's template. within: that of the visit in the
            subject's own template; None if the subject has no other visit.
        out: their folder. mask: of the group's template, (Z, Y, X).
    """

    visit: Subject
    group: Path
    within: Path | None
    out: Path
    mask: NDArray[np.bool_]
    key: str


def entry_of(place: Path, key: str) -> Mapping[str, Any] | None:
    """The entry of a visit whose files are in a folder and have the key."""
    return finish.entry_of(place, ENTRY, FILES, key)


def carry(its: Carried) -> Mapping[str, Any]:
    """Write the files of a visit together, unless they are there; returns its entry.

    Raises InputError, OutputError.
    """
    found = entry_of(its.out, its.key)
    if found is not None:
        return found
    between = Link.of(its.group)
    whole = between if its.within is None else between.then(Link.of(its.within))
    own, grid = load(its.visit), whole.template
    forward, inverse = (
        compact_field(to_image(u, of), None, rounded=True)[0]
        for u, of in ((whole.forward, grid), (whole.inverse, whole.scan))
    )
    moved = averages.warped(own.channels[0], as_transform(raised(forward)), grid)
    moved[~np.isfinite(moved)] = own.channels[0].outside
    entry = {"key": its.key, **_measured(raised(forward), raised(inverse), own.content, its, whole)}
    change = _within_change(its, between)
    paths = {name: its.out / file for name, file in FILES.items()}
    with atomic.claim([*paths.values(), its.out / ENTRY], force=True) as staging:
        write_image(forward, staging.path(paths["forward_field"]))
        write_image(inverse, staging.path(paths["inverse_field"]))
        image, _ = compact_image(averages.to_image(moved, grid))
        write_image(image, staging.path(paths["warped"]))
        total = jacobian(forward, log=True).image
        write_image(total, staging.path(paths["total_log_jacobian"]))
        write_image(change, staging.path(paths["within_log_jacobian"]))
        atomic.write_text(staging.path(its.out / ENTRY), dump(entry))
        staging.commit()
    return json.loads(dump(entry))  # type: ignore[no-any-return]


def _measured(
    forward: sitk.Image,
    inverse: sitk.Image,
    content: NDArray[np.bool_],
    its: Carried,
    whole: Link,
) -> dict[str, Any]:
    """Folding and inverse errors of the fields as written."""
    u, v = from_image(forward), from_image(inverse)
    trips = RoundTrips.of(u, whole.template, v, whole.scan, (its.mask, content), whole.affine[0])
    there, back = trips.errors()
    folding, inverse_folding = (
        asdict(measure_folding(grid, *determinants(along_axes(field, grid), grid.spacing)))
        for field, grid in ((u, whole.template), (v, whole.scan))
    )
    return {
        "folding": folding,
        "inverse_folding": inverse_folding,
        "inverse_error_template": asdict(there),
        "inverse_error_visit": asdict(back),
    }


def _within_change(its: Carried, between: Link) -> sitk.Image:
    """The within-subject log Jacobian where the subject's field takes each voxel of the group's."""
    grid = between.template
    if its.within is None:
        return averages.to_image(np.zeros(grid.size[::-1], np.float32), grid)
    own = read_image(its.within / finish.FILES["log_jacobian"], "log Jacobian").image
    way = as_transform(to_image(between.forward, grid))
    like = grid.empty_image(sitk.sitkUInt8)
    moved = sitk.Resample(raised(own), like, way, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return averages.to_image(sitk.GetArrayFromImage(moved), grid)
