"""A look at ITK's transforms in HDF5 files before ITK reads them.

On some damage, ITK's own reader crashes, or takes all memory.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from hsyn_cli.io.nifti import UNREADABLE

MOST = 1100  # bytes that deflate makes of one


def check(data: bytes) -> None:
    """Raise ValueError unless the transforms in an HDF5 file have the numbers of their kinds."""
    import h5py

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            whole = all(_whole(dict(part)) for part in file["TransformGroup"].values())
    except (*UNREADABLE, AttributeError, OSError, RuntimeError) as error:
        raise ValueError("no whole HDF5 file of transforms") from error
    if not whole:
        raise ValueError("a transform has too many or too few numbers")


def _whole(part: dict[str, Any]) -> bool:
    """Whether a group of datasets is one whole transform, as far as its sizes show."""
    kind = part["TransformType"][0].decode("ascii")
    if kind.startswith("Composite"):
        return True
    sets = {name.replace("Tranform", "Transform"): item for name, item in part.items()}  # old ITK
    numbers, fixed = (sets[f"Transform{name}Parameters"] for name in ("", "Fixed"))
    if any(item.nbytes > MOST * item.id.get_storage_size() for item in (numbers, fixed)):
        return False
    dimension = int(kind[-1])
    if kind.startswith("DisplacementField"):
        return bool(np.prod(fixed[:dimension]) * dimension == numbers.size)
    return not kind.startswith("Affine") or numbers.size == dimension * (dimension + 1)
