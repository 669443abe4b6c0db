"""Headers of FreeSurfer's MGH files (.mgh, .mgz), parsed by nibabel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hsyn_cli.errors import InputError
from hsyn_cli.io.headers import Header, Intent, dimensions, placed

HEADER_BYTES = 284
FIELDS = 90  # bytes of them in use
WARP = "FreeSurfer warp"  # name of the intent in `Header` for FreeSurfer's intent 1, a warp


def parse(head: bytes, path: Path, name: str) -> Header:
    """The header of the file at `path`, from its first bytes.

    The high byte of the version holds an intent. Raises InputError, GeometryError.
    """
    from nibabel.freesurfer.mghformat import MGHError, MGHHeader

    damaged = InputError(
        f"{name}: its header is damaged, or it is no MGH file", "copy the file again"
    )
    version = int.from_bytes(head[:4], "big")
    if len(head) < HEADER_BYTES or version & 0xFF != 1 or version >> 16:
        raise damaged
    try:
        header = MGHHeader(bytes([0, 0, 0, 1]) + head[4:FIELDS], check=False)
        dim = dimensions([int(n) for n in header["dims"]], name)
        dtype = header.get_data_dtype().newbyteorder(">")
        with np.errstate(all="ignore"):
            matrix = np.array(header.get_affine(), np.float64)
    except (MGHError, ValueError, KeyError) as error:
        raise damaged from error
    grid, notes = placed(matrix, dim[:3], name)
    return Header(
        path=path,
        parts=(path,),
        kind="MGH",
        dim=dim,
        grid=grid,
        dtype=dtype,
        offset=HEADER_BYTES,
        notes=notes,
        axes=max(3, len(dim)),
        intent=Intent(name=WARP if version >> 8 == 1 else ""),
    )
