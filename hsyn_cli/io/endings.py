"""Which endings file names have: the one table of hsyn, with its dots, in lower case.

The table imports nothing, so the command line may ask it. Case does not count: see `ends`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

NIFTI = (".nii", ".nii.gz")
NUMPY = (".npz", ".npy")
IMAGES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")  # that hsyn reads
WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")  # images that hsyn writes, each one file
HDF5 = (".h5", ".hdf5")  # ITK transforms of any kind, fields too
TRANSFORMS = (".mat", ".tfm", ".txt", ".xfm", *HDF5)  # any other file of a chain is a field


def ends(path: Path | str, endings: Iterable[str]) -> bool:
    """True if the name of the file at `path` ends in one of `endings`, in any case."""
    return Path(path).name.lower().endswith(tuple(endings))
