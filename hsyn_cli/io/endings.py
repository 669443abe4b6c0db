"""Which endings file names have: the one table of hsyn, with its dots, in lower case.

The module imports nothing of hsyn, so the command line may ask it. Case does not count: see `ends`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

NIFTI = (".nii", ".nii.gz")
ANALYZE = (".hdr", ".img", ".hdr.gz", ".img.gz")  # pairs, of NIfTI too
HEADERS = (".hdr", ".hdr.gz")  # of such pairs
MGH = (".mgh", ".mgz")
NUMPY = (".npz", ".npy")
TEXT_HEADED = (".nrrd", ".nhdr", ".mha", ".mhd")
IMAGES = (*NIFTI, *ANALYZE, *MGH, *TEXT_HEADED)  # that hsyn reads
WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha", *reversed(MGH))  # that hsyn writes, one file each
HDF5 = (".h5", ".hdf5")  # ITK transforms of any kind, fields too
TRANSFORMS = (".mat", ".tfm", ".txt", ".xfm", *HDF5)  # any other file of a chain is a field
LTA = (".lta",)  # FreeSurfer's affines

TABLES = (".csv", ".tsv", ".txt")


def ends(path: Path | str, endings: Iterable[str]) -> bool:
    """True if the name of the file at `path` ends in one of `endings`, in any case."""
    return Path(path).name.lower().endswith(tuple(endings))


def quoted(path: Path) -> str:
    """A path as one word of a shell's line, for commands in messages."""
    return shlex.quote(str(path))
