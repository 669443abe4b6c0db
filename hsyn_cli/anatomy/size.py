"""The unit of length of a registration: all lengths of the method are for human size.

hsyn registers a mouse, or a block of tissue, as if it were as large as what the method's
millimetres are for. It scales the pair at the start, and the fields back at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from hsyn_cli.anatomy.intensity import Intensities, content_from
from hsyn_cli.space import Grid, affine_from, affine_parts

Images = tuple[sitk.Image, sitk.Image]

USUAL_MM3 = 1.3e6  # the content of what the method's millimetres are for
SAME = 1.25  # a unit this close to 1 mm is 1 mm
MOST_VOXELS = 3e6  # of the content on the working grid
FINER = 1 / 8  # of the volume of a voxel; a finer grid than that gains nothing
MOST_BOX_MM3, MOST_BOX_VOXELS = 4e7, 1.2e7  # of the box around the content


@dataclass(frozen=True)
class Extent:
    """The volume of an image's content, and of the box around it, in cubic millimetres.

    Of a slice, `dimensions` is 2, and these are areas.
    """

    content: float
    box: float
    dimensions: int = 3

    @classmethod
    def of(cls, image: sitk.Image, grey: Intensities) -> Extent:
        """Of every second voxel along each axis."""
        values = sitk.GetArrayViewFromImage(image)[::2, ::2, ::2]
        bright = values > content_from(image, grey)
        grid = Grid.of(image)
        dimensions = 3 if grid.normal is None else 2
        voxel = grid.voxel**dimensions * image.GetNumberOfPixels() / bright.size
        sides = [bright.any(tuple(k for k in range(3) if k != axis)) for axis in range(3)]
        ends = [np.flatnonzero(side) for side in sides]
        box = float(np.prod([np.ptp(end) + 1 if end.size else 1 for end in ends]))
        return cls(voxel * max(float(bright.sum()), 1.0), voxel * box, dimensions)


Extents = tuple[Extent, Extent]


def unit_of(extents: Extents) -> float:
    """The unit in mm that brings contents to the usual volume, in a box of bounded volume."""
    content = float(np.sqrt(extents[0].content * extents[1].content))
    box, d = max(extent.box for extent in extents), extents[0].dimensions
    unit = max(content ** (1 / d) / USUAL_MM3 ** (1 / 3), box ** (1 / d) / MOST_BOX_MM3 ** (1 / 3))
    return 1.0 if 1 / SAME < unit < SAME else unit


def working_voxel(images: Images, extents: Extents) -> float:
    """The voxel of the working grid, in the lengths of the images, for images of anything.

    It is about the finer voxel of both. Coarse images of little content get finer ones, since
    fields gain from it, and large images coarser ones, to save time.
    """
    d = extents[0].dimensions
    voxel = min(Grid.of(image).voxel for image in images) ** d
    content, box = (max(getattr(v, name) for v in extents) for name in ("content", "box"))
    usual = min(voxel, content / USUAL_MM3 ** (d / 3))
    least = max(content / MOST_VOXELS, box / MOST_BOX_VOXELS)
    return float(max(FINER ** (d / 3) * voxel, usual, least) ** (1 / d))


def scaled(image: sitk.Image, factor: float) -> sitk.Image:
    """A copy whose points lie `factor` times as far from the origin of space."""
    return image if factor == 1 else Grid.of(image).scaled(factor).stamp(sitk.Image(image))


def scaled_affine(transform: sitk.Transform, factor: float) -> sitk.AffineTransform:
    """The same map of points that lie `factor` times as far from the origin of space."""
    a, t = affine_parts(transform)
    return affine_from(a, t * factor)
