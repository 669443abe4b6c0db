"""Chains of transforms, `-t A -t B`, with the order and meaning of antsApplyTransforms.

A point goes through A first, then through B. Images are pulled: each voxel of the reference goes
through the chain, and gets the value of the input image there. Points are pushed along the same
way, so the chain that moves an image from moving to fixed moves points from fixed to moving. To
move points from moving to fixed, give the chain of the inverse: `-t [0GenericAffine.mat,1] -t
1InverseWarp.nii.gz` for an ANTs run, `-t inverse_field.nii.gz` for hsyn's total fields.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk

from hsyn_cli.errors import GeometryError, UsageError
from hsyn_cli.io import checks, images
from hsyn_cli.io.composites import field_of, in_order
from hsyn_cli.io.endings import HDF5, TRANSFORMS, ends
from hsyn_cli.io.images import ImageLike, as_grid
from hsyn_cli.io.transforms import read_any_transform, read_transform
from hsyn_cli.space import Array, Grid, affine_from, affine_parts
from hsyn_cli.space.planes import raised, raised_transform
from hsyn_cli.tools.mapping import mapped_points

INVERSE = re.compile(r"\[\s*(.+?)\s*,\s*([01])\s*\]")
LATTICE = 64  # points along each axis for the check that grids meet
MEET_HINT = "check the order and direction of the transforms, and the images they belong to"
POINTS_HINT = "give points in mm, LPS (x and y of RAS have the opposite sign); check the direction"

# Text as typed, a file, a transform, or a displacement field in mm, LPS.
Given: TypeAlias = str | Path | sitk.Transform | sitk.Image


@dataclass(frozen=True)
class Link:
    """One transform, point -> point, mm LPS.

    `grid`: of a displacement field, outside which ITK does not move points. `dimension`: of the
    points; 2-D ones have z = 0.
    """

    transform: sitk.Transform
    name: str
    grid: Grid | None = None
    dimension: int = 3


@dataclass(frozen=True)
class Source:
    """A file of the chain; `inverse`: True for [FILE,1]."""

    path: str
    sha256: str
    inverse: bool


@dataclass(frozen=True)
class Chain:
    """A point goes through the `links` in their order."""

    links: tuple[Link, ...]
    sources: tuple[Source, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def transform(self) -> sitk.CompositeTransform:
        """The whole chain as one transform, reference point -> point of the input image."""
        return _composite(self.links)

    @property
    def dimension(self) -> int:
        """That of all its links."""
        return self.links[0].dimension

    @property
    def is_linear(self) -> bool:
        """Whether all its links are linear."""
        return all(link.transform.IsLinear() for link in self.links)

    @property
    def grid(self) -> Grid | None:
        """The grid of the first link, the natural reference; None if that is no field."""
        return self.links[0].grid


def read(items: Sequence[Given]) -> Chain:
    """Read transforms in memory, files, or text: FILE, or [FILE,1] to invert a linear transform.

    Raises UsageError for the inverse of another transform, and the errors of `images.read_field`
    and `transforms.read_transform`.
    """
    links: list[Link] = []
    sources: list[Source] = []
    warnings: list[str] = []
    for item in items:
        if isinstance(item, sitk.Transform):
            links += _links(item, f"transform {len(links) + 1}")
        elif isinstance(item, sitk.Image):
            links.append(_field(item, f"field {len(links) + 1}"))
        else:
            path, inverse = parse(str(item))
            new, sha256, lines = _read(path, inverse)
            links += new
            sources.append(Source(str(path), sha256, inverse))
            warnings += lines
    if not links:
        raise UsageError("no transform is given", "give -t at least once")
    name, dimension = links[0].name, links[0].dimension
    for link in links:
        if link.dimension != dimension:
            text = f"{name} is {dimension}-D, and {link.name} is {link.dimension}-D"
            raise UsageError(text, "give transforms of one dimension")
    return Chain(tuple(links), tuple(sources), tuple(warnings))


def check_dimension(chain: Chain, dimension: int | None) -> None:
    """Raise UsageError unless the chain has a dimension; None: any."""
    if dimension not in (None, chain.dimension):
        text = f"{chain.links[0].name} is {chain.dimension}-D, not {dimension}-D"
        raise UsageError(text, f"give -d {chain.dimension}")


def read_any(transforms: Given | Sequence[Given]) -> Chain:
    """`read` one transform or several."""
    return read(transforms if isinstance(transforms, list | tuple) else [transforms])


def grid_for(chain: Chain, reference: ImageLike | None) -> Grid:
    """The grid of `reference`, by default of the first link. Raises UsageError if there is none."""
    if reference is None:
        return reference_grid(chain, None)
    return _of_dimension(chain, as_grid(reference), "the reference image")


def reference_grid(chain: Chain, path: Path | None) -> Grid:
    """The grid of a file, by default of the first link. Raises UsageError if there is none."""
    if path is not None:
        return _of_dimension(chain, images.read_grid(path), f"reference image {path}")
    if chain.grid is None:
        text = "--reference is missing, and the first transform of the chain has no grid of its own"
        raise UsageError(text, "give -r, the image whose grid the output gets")
    return chain.grid


def _of_dimension(chain: Chain, grid: Grid, name: str) -> Grid:
    """`grid`. Raises GeometryError unless it has the dimension of the chain."""
    if grid.dimension != chain.dimension:
        text = f"{name} is {grid.dimension}-D, and the transform {chain.dimension}-D"
        raise GeometryError(text, "give images and transforms of one dimension")
    return grid


def parse(text: str, flag: str = "-t") -> tuple[Path, bool]:
    """FILE, [FILE,0] or [FILE,1] -> (path, whether to invert). Raises UsageError."""
    if match := INVERSE.fullmatch(text.strip()):
        return Path(match[1]), match[2] == "1"
    if text.startswith("["):
        hint = "give 0, or 1 to invert" if "]" in text else f"quote it: {flag} '[affine.mat,1]'"
        raise UsageError(f"{flag} {text} is neither FILE nor [FILE,0|1]", hint)
    return Path(text), False


def _read(path: Path, inverse: bool) -> tuple[list[Link], str, tuple[str, ...]]:
    """Links, SHA-256 and warnings of one file."""
    name = str(path)
    if not ends(path, TRANSFORMS):  # a displacement field
        scan = images.read_field(path)
        if inverse:
            raise _no_inverse(name)
        return [_field(scan.image, name)], scan.sha256, scan.warnings
    transform, sha256, dimension = read_any_transform(path)
    if transform.IsLinear():
        affine = read_transform(path, "transform").transform  # checked; but its centre is lost
        way = affine if isinstance(transform, sitk.CompositeTransform) else transform
        return [Link(way.GetInverse() if inverse else way, name, None, dimension)], sha256, ()
    if inverse:
        raise _no_inverse(name)
    return _links(transform, name, dimension), sha256, ()


def _no_inverse(name: str) -> UsageError:
    hint = "invert the field with `hsyn invert` first, and give the result"
    if ends(name, HDF5):
        hint = "give the file of the inverse: ANTs and `hsyn register` name it InverseComposite.h5"
    return UsageError(f"[{name},1]: only linear transforms are inverted here", hint)


def _links(transform: sitk.Transform, name: str, dimension: int | None = None) -> list[Link]:
    """The parts of a transform of any kind, in the order in which points go through them."""
    dimension = dimension or transform.GetDimension()
    return [
        _field(field_of(part, dimension), name)
        if isinstance(part, sitk.DisplacementFieldTransform)
        else Link(part, name, dimension=dimension)
        for part in in_order(raised_transform(transform))
    ]


def _field(field: sitk.Image, name: str) -> Link:
    field = raised(field)
    checks.check_field(field, name)
    grid = Grid.of(field)
    copy = sitk.Cast(field, sitk.sitkVectorFloat64) + 0.0  # the transform empties its image
    return Link(sitk.DisplacementFieldTransform(copy), name, grid, grid.dimension)


def _composite(links: Sequence[Link]) -> sitk.CompositeTransform:
    """Compose in reverse: ITK applies the last transform of a composite first."""
    composite = sitk.CompositeTransform(3)
    for link in reversed(links):
        composite.AddTransform(link.transform)
    return composite


def check_fields(chain: Chain, reference: Grid) -> tuple[str, ...]:
    """A warning for each field that part of `reference` misses, with the share of its voxels.

    Raises GeometryError if all of `reference` misses a field.
    """
    lines = []
    for k, link in enumerate(chain.links):
        if link.grid is None:
            continue
        share = reaching(chain.links[:k], reference, link.grid)
        if share == 0:
            text = f"the reference lies wholly outside the grid of the field {link.name}"
            raise GeometryError(text + (", as the chain takes it there" if k else ""), MEET_HINT)
        if share < 1:
            lines.append(
                f"{100 * (1 - share):.2g} % of the reference lies outside the grid of {link.name}, "
                "where that field moves nothing"
            )
    return tuple(lines)


def check_image(chain: Chain, reference: Grid, image: Grid, name: str) -> None:
    """Raise GeometryError if the chain takes no voxel of `reference` into the image."""
    _of_dimension(chain, image, f"the image {name}")
    if reaching(chain.links, reference, image) == 0:
        text = f"the reference, taken through the chain, lies wholly outside the image {name}"
        raise GeometryError(text, MEET_HINT)


def reaching(links: Sequence[Link], reference: Grid, target: Grid) -> float:
    """The share of the voxels of `reference` that `links` take into `target`.

    Measured on a lattice of voxels; before it returns 0, on all voxels.
    """
    if not links and target.same_as(reference):
        return 1.0
    composite = _composite(links) if links else sitk.Transform(3, sitk.sitkIdentity)
    share = float(target.contains(mapped_points(composite, reference.thinned(LATTICE))).mean())
    if share > 0 or max(reference.size) <= LATTICE:
        return share
    full = target.empty_image(sitk.sitkUInt8) + 1
    start = (reference.size, composite, sitk.sitkNearestNeighbor)
    hits = sitk.Resample(full, *start, reference.origin, reference.spacing, reference.direction)
    return float(sitk.GetArrayViewFromImage(hits).mean())


def move_points(chain: Chain, points: Array) -> tuple[Array, tuple[str, ...]]:
    """Move (N, 3) LPS points through the chain, like antsApplyTransformsToPoints; with warnings.

    Raises GeometryError if all points miss the grid of a field.
    """
    lines = []
    for link in chain.links:
        if link.grid is not None:
            outside = int((~link.grid.contains(points)).sum())
            if outside == len(points):
                text = f"no point lies on the grid of the field {link.name}"
                raise GeometryError(text, POINTS_HINT)
            if outside:
                text = f"{outside} of {len(points)} points lie outside the grid of {link.name}"
                lines.append(f"{text}, where that field moves nothing")
        points = np.array([link.transform.TransformPoint(point) for point in points.tolist()])
    return points, tuple(lines)


def to_field(chain: Chain, reference: Grid) -> sitk.Image:
    """The whole chain as one displacement field on `reference`, float32, mm LPS."""
    grid = (reference.size, reference.origin, reference.spacing, reference.direction)
    field = sitk.TransformToDisplacementField(chain.transform, sitk.sitkVectorFloat32, *grid)
    return reference.stamp(field)


def to_affine(chain: Chain) -> sitk.AffineTransform:
    """A linear chain as one transform. Raises UsageError if it is not linear."""
    nonlinear = [link.name for link in chain.links if not link.transform.IsLinear()]
    if nonlinear:
        text = f"{nonlinear[0]} is not linear, so the chain is no affine transform"
        hint = "end the name of -o in .nii.gz to get one displacement field, or in .h5 to keep all"
        raise UsageError(text, hint)
    return affine_from(*affine_parts(chain.transform))
