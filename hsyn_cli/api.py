"""hsyn from Python: the verbs of the command line, on SimpleITK images or paths, with typed results.

Points are in mm, LPS. Fields are vector images in mm, LPS, that send a point p of their grid to p + d(p).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import SimpleITK as sitk

from hsyn_cli import apply, chain, determinants, evaluation, images
from hsyn_cli.chain import Given
from hsyn_cli.determinants import Jacobian
from hsyn_cli.evaluation import Evaluation
from hsyn_cli.images import ImageLike, as_field, as_grid, as_image, as_labels
from hsyn_cli.inversion import invert
from hsyn_cli.pipeline import register
from hsyn_cli.scores import read_landmarks
from hsyn_cli.space import Array, Grid

__all__ = ["apply_field", "compose", "evaluate", "invert", "jacobian", "register"]


def apply_field(
    image: ImageLike,
    transforms: Given | Sequence[Given],
    reference: ImageLike | None = None,
    *,
    interpolation: str = "linear",
    default: float = 0.0,
    keep_type: bool = False,
    reorient: bool = False,
) -> sitk.Image:
    """`image` looked up where the chain takes the voxels of `reference`; the first transform is applied to them first.

    Args:
        transforms: one, or several in antsApplyTransforms' order: SimpleITK transforms, fields, paths, "[affine.mat,1]".
        reference: image whose grid the result gets; None: the grid of the first transform, if that is a field.
        interpolation: "linear", "nearest", "bspline", "lanczos", or "label" for label maps.
        default: value outside the image. keep_type: of the pixels, else float32 (nearest and label keep it always).
        reorient: turn the vectors of a vector image.

    Raises:
        InputError, GeometryError, UsageError: see `errors`.
    """
    links = chain.read(_several(transforms))
    grid = _grid(links, reference)
    picture = image if isinstance(image, sitk.Image) else images.read_any(Path(image)).image
    if interpolation == "label":
        picture = as_labels(picture, "label map")
    chain.check_image(links, grid, Grid.of(picture), "given")
    settings = apply.Settings(interpolation, default, keep_type, reorient)
    return apply.move(picture, grid, links.transform, settings)


def compose(transforms: Sequence[Given], reference: ImageLike | None = None) -> sitk.Image:
    """A chain of transforms, in antsApplyTransforms' order, as one field on the grid of `reference`, float32."""
    links = chain.read(_several(transforms))
    grid = _grid(links, reference)
    chain.check_fields(links, grid)
    return chain.to_field(links, grid)


def jacobian(field: ImageLike, *, log: bool = False) -> Jacobian:
    """The determinant of p -> p + d(p), or its logarithm, as an image, and whether the field folds."""
    return determinants.jacobian(as_field(field), log=log)


def evaluate(
    forward: ImageLike,
    fixed: ImageLike,
    *,
    inverse: ImageLike | None = None,
    fixed_labels: ImageLike | None = None,
    moving_labels: ImageLike | None = None,
    landmarks: Array | str | os.PathLike[str] | None = None,
    fixed_mask: ImageLike | None = None,
    ignore: Collection[int] = (),
) -> Evaluation:
    """Overlap of labels, landmark errors, folding and inverse error of a pair of total fields; see `evaluation.evaluate`.

    Args:
        landmarks: (N, 6) points, fixed x, y, z and moving x, y, z, or a CSV with the columns fx, fy, fz, mx, my, mz.
    """
    return evaluation.evaluate(
        as_field(forward, "forward field"),
        as_image(fixed, "fixed image"),
        inverse=None if inverse is None else as_field(inverse, "inverse field"),
        fixed_labels=None if fixed_labels is None else as_labels(fixed_labels, "fixed labels"),
        moving_labels=None if moving_labels is None else as_labels(moving_labels, "moving labels"),
        landmarks=read_landmarks(Path(landmarks)) if isinstance(landmarks, str | os.PathLike) else landmarks,
        fixed_mask=None if fixed_mask is None else as_labels(fixed_mask, "fixed mask"),
        ignore=ignore,
    )


def _several(transforms: Given | Sequence[Given]) -> Sequence[Given]:
    return transforms if isinstance(transforms, list | tuple) else [transforms]


def _grid(links: chain.Chain, reference: ImageLike | None) -> Grid:
    return chain.reference_grid(links, None) if reference is None else as_grid(reference)
