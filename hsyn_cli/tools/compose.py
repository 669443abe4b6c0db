"""Compose a chain of transforms into one displacement field or one affine transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from hsyn_cli.errors import UsageError
from hsyn_cli.io import atomic, endings, files, writing
from hsyn_cli.io.composites import write_composite
from hsyn_cli.io.images import ImageLike
from hsyn_cli.io.transforms import write_transform
from hsyn_cli.space.planes import lowered
from hsyn_cli.tools import chain
from hsyn_cli.tools.apply_files import still
from hsyn_cli.tools.chain import Chain, Given


@dataclass(frozen=True)
class ComposedFile:
    """The chain, its file `output`, and warnings."""

    chain: Chain
    output: Path
    warnings: tuple[str, ...]


def compose(transforms: Sequence[Given], reference: ImageLike | None = None) -> sitk.Image:
    """Compose transforms, in antsApplyTransforms' order, into one float32 field, mm LPS.

    `reference`: image whose grid the field gets; None: the grid of the first transform.
    """
    links = chain.read_any(transforms)
    grid = chain.grid_for(links, reference)
    chain.check_fields(links, grid)
    return lowered(chain.to_field(links, grid))


def compose_files(
    transforms: Sequence[str],
    out: Path,
    *,
    reference: Path | None = None,
    linear: bool | None = None,
    inverse: bool = False,
    dimension: int | None = None,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> ComposedFile:
    """Write a chain, as typed, to `out`: a field, or a linear transform if `out` ends like one.

    In .h5, a chain that is not linear stays as it is: a composite of all its transforms.

    Args:
        linear: whether to write a linear transform; None: by the ending of `out`.
        inverse: of a linear transform, write the inverse.
        dimension: of the transforms; None: 2 or 3.

    Raises:
        UsageError, InputError, GeometryError, OutputError: see `errors`.
    """
    typed = [chain.parse(text)[0] for text in transforms]
    kept = linear is None and endings.ends(out, endings.HDF5)
    of_transforms = endings.ends(out, endings.TRANSFORMS)
    linear = of_transforms if linear is None else linear
    if not linear:
        files.check_image_names([out])
    elif not of_transforms:
        text = f"{out} is no name of a linear transform"
        raise UsageError(text, f"end it in {', '.join(endings.TRANSFORMS)}")
    inputs = [*typed, *([reference] if reference else [])]
    warnings: tuple[str, ...] = ()
    with atomic.claim([out], force=force, inputs=inputs) as staging:
        progress("reading", 0.0)
        links = chain.read(transforms) if transforms or not reference else still(reference)
        chain.check_dimension(links, dimension)
        if kept and not links.is_linear:
            if reference is not None:
                text = f"{out} holds the transforms as they are, on the grids that they have"
                raise UsageError(text, "leave out -r, or end -o in .nii.gz to get one field")
            steps = [link.transform for link in links.links]
            write_composite(steps, staging.path(out), links.dimension)
        elif linear:
            affine = chain.to_affine(links)
            affine = affine.GetInverse() if inverse else affine
            write_transform(affine, staging.path(out), links.dimension)
        else:
            grid = chain.reference_grid(links, reference)
            progress("composing", 0.4)
            warnings = chain.check_fields(links, grid)
            field = chain.to_field(links, grid)
            progress("writing", 0.8)
            writing.write_image(field, staging.path(out))
        staging.commit()
    return ComposedFile(links, out, links.warnings + warnings)
