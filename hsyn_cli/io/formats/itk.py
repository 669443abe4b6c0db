"""ITK's form, in which hsyn itself keeps fields and affines: mm, LPS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsyn_cli.io.endings import HDF5, NIFTI, TRANSFORMS, ends
from hsyn_cli.io.formats import SHARED, Form, Layout

if TYPE_CHECKING:
    from hsyn_cli.io.headers import Header
    from hsyn_cli.space import Array, Grid


class Itk(Form):
    """Vectors in images or in ITK's transforms."""

    about = (
        "mm, LPS: NIfTI intent 1007, .nrrd, .mha, .h5; affines .mat .tfm .txt .xfm .h5 "
        "(ANTs, SimpleITK, Slicer, greedy, hsyn)"
    )
    field_endings = (*NIFTI, ".nrrd", ".mha", *HDF5)
    affine_endings = TRANSFORMS

    def claims(self, path: Path, header: Header | None) -> bool:
        """True for every image and every transform: other forms are asked first."""
        return ends(path, SHARED)

    def save_field(self, vectors: Array, grid: Grid, path: Path, layout: Layout) -> None:
        """As an ITK transform, in float64, where the name says so."""
        if not ends(path, HDF5):
            super().save_field(vectors, grid, path, layout)
            return
        import SimpleITK as sitk

        from hsyn_cli.io.transforms import write_transform

        image = grid.stamp(sitk.GetImageFromArray(vectors, isVector=True))
        write_transform(sitk.DisplacementFieldTransform(image), path, grid.dimension)

    def read_affine(self, path: Path, fixed: Grid | None, moving: Grid | None) -> Array:
        """A linear transform of ITK."""
        import numpy as np

        from hsyn_cli.io.transforms import read_transform
        from hsyn_cli.space import affine_parts

        matrix = np.eye(4)
        transform = read_transform(path, "transform").transform
        matrix[:3, :3], matrix[:3, 3] = affine_parts(transform)
        return matrix

    def write_affine(
        self, matrix: Array, path: Path, fixed: Grid | None, moving: Grid | None
    ) -> None:
        """As an affine transform of ITK."""
        from hsyn_cli.io.transforms import write_transform
        from hsyn_cli.space import affine_from

        write_transform(affine_from(matrix[:3, :3], matrix[:3, 3]), path)


FORM = Itk()
