"""A small picture of a pair: the fixed image in grey, the edges of the warped one over it."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy.intensity import content_box
from hsyn_cli.anatomy.view import view_of
from hsyn_cli.results.page.volumes import picture, window
from hsyn_cli.space import Grid, working_grid
from hsyn_cli.space.planes import raised

MOST_BYTES = 10_000  # 1,000 of them, in base64, take 13 MB of the page
SIDES = (92, 80, 68, 56, 44, 32)  # pixels of the content's longest side; the first that fits
FLAT = 1.6  # times as long for the one plane of a 2-D image
SHADES = 28  # of grey; more of them only cost bytes
EDGE = (255, 176, 0)
STRONG = 0.9  # share of the pixels with content whose gradient is below that of an edge
BLUR = 0.9  # pixels

Plane = NDArray[np.uint8]


def thumbnail(
    fixed: sitk.Image, warped: sitk.Image, most: int = MOST_BYTES, frame: sitk.Image | None = None
) -> bytes:
    """The picture as a PNG of `most` bytes: axial, coronal, sagittal, or the one plane.

    `frame`: the image whose content is in the middle, the fixed one if none is given.
    """
    for side in SIDES:
        data = png(drawn(fixed, warped, side, frame), palette())
        if len(data) <= most:
            break
    return data


def drawn(
    fixed: sitk.Image, warped: sitk.Image, side: int, frame: sitk.Image | None = None
) -> Plane:
    """The planes side by side as codes of the `palette`; 0 is black."""
    still, moved = (view_of(raised(image)).image for image in (fixed, warped))
    grid = grid_around(still if frame is None else view_of(raised(frame)).image, side)
    grey = picture(still, grid, window(still))
    other = picture(moved, grid, window(moved))
    drawn_planes = []
    for back, front in zip(planes(grey), planes(other), strict=True):
        codes = shades(back)
        codes[_edges(front)] = SHADES
        drawn_planes.append(codes)
    return _beside(drawn_planes)


def shades(plane: Plane, count: int = SHADES) -> Plane:
    """Grey values from 0 to 255 as codes of the `palette` of so many."""
    codes: Plane = np.rint(plane * ((count - 1) / 255)).astype(np.uint8)
    return codes


def palette(count: int = SHADES) -> list[tuple[int, int, int]]:
    """The colours of the codes: shades from black to white, then that of edges."""
    greys = [round(255 * k / (count - 1)) for k in range(count)]
    return [*((v, v, v) for v in greys), EDGE]


def grid_around(image: sitk.Image, side: int) -> Grid:
    """An isotropic grid over the content of a volume, `side` voxels along its longest side."""
    own, box = Grid.of(image), content_box(image)
    wide = [k for k in range(3) if k != own.normal]
    lengths = ((box[1] - box[0] + 1) * np.array(own.spacing))[wide]
    voxel = float(lengths.max()) / (side * (FLAT if len(wide) == 2 else 1))
    return working_grid(own, box, voxel, 2 * voxel, 1)


def planes(volume: Plane) -> list[Plane]:
    """The middle planes of (Z, Y, X), as the pages show them: the head and the front are up."""
    z, y, x = (n // 2 for n in volume.shape)
    if len(volume) == 1:
        return [volume[0]]
    return [volume[z], volume[::-1, y], volume[::-1, :, x]]


def _edges(plane: Plane) -> NDArray[np.bool_]:
    """Thin lines where the grey values of a plane change most."""
    if not plane.any():
        return np.zeros(plane.shape, bool)
    image = sitk.GetImageFromArray(plane.astype(np.float32))
    slope = sitk.GetArrayFromImage(sitk.GradientMagnitudeRecursiveGaussian(image, BLUR))
    strong = float(np.quantile(slope[plane > 0], STRONG))
    lines = sitk.CannyEdgeDetection(image, strong / 2, strong, [BLUR**2] * 2)
    found: NDArray[np.bool_] = sitk.GetArrayFromImage(lines) > 0
    return found


def _beside(planes: list[Plane]) -> Plane:
    """Planes in a row, each in the middle of the height."""
    height, gap = max(len(plane) for plane in planes), 2
    row = []
    for plane in planes:
        above = (height - len(plane)) // 2
        row.append(np.pad(plane, ((above, height - len(plane) - above), (gap, gap))))
    return np.concatenate(row, axis=1)


def png(codes: Plane, colours: list[tuple[int, int, int]]) -> bytes:
    """A PNG with a palette. SimpleITK writes none, and full colour takes three times the bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = codes.shape
    lines = np.pad(codes, ((0, 0), (1, 0))).tobytes()  # each line starts with 0: no filter
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", bytes(v for colour in colours for v in colour)),
            chunk(b"IDAT", zlib.compress(lines, 9)),
            chunk(b"IEND", b""),
        )
    )
