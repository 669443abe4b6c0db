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
    force: bool = False,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> ComposedFile:
    """Write a chain, as typed, to `out`: a field, or a linear transform if `out` ends like one.

    In .h5, a chain that is not linear stays as it is: a composite of all its transforms. Raises
    UsageError, InputError, GeometryError, OutputError.
    """
    typed = [chain.parse(text)[0] for text in transforms]
    linear = endings.ends(out, endings.TRANSFORMS)
    if not linear:
        files.check_image_names([out])
    inputs = [*typed, *([reference] if reference else [])]
    warnings: tuple[str, ...] = ()
    with atomic.claim([out], force=force, inputs=inputs) as staging:
        progress("reading", 0.0)
        links = chain.read(transforms)
        if endings.ends(out, endings.HDF5) and not links.is_linear:
            if reference is not None:
                text = f"{out} holds the transforms as they are, on the grids that they have"
                raise UsageError(text, "leave out -r, or end -o in .nii.gz to get one field")
            steps = [link.transform for link in links.links]
            write_composite(steps, staging.path(out), links.dimension)
        elif linear:
            write_transform(chain.to_affine(links), staging.path(out), links.dimension)
        else:
            grid = chain.reference_grid(links, reference)
            progress("composing", 0.4)
            warnings = chain.check_fields(links, grid)
            field = chain.to_field(links, grid)
            progress("writing", 0.8)
            writing.write_image(field, staging.path(out))
        staging.commit()
    return ComposedFile(links, out, links.warnings + warnings)
