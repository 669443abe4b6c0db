"""The background of an image: the flat values along its border, whether dark or not.

Air with noise is not flat, and has no background in this sense. Arrays are (Z, Y, X).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = "NDArray[Any]"
Mask: TypeAlias = "NDArray[np.bool_]"

SAMPLED = 128  # voxels along each axis at most that tell the content's range
NOISE = 1e-3  # of the content's range; values this close are equal but for rounding
DARKEST, BRIGHTEST = 1.0, 99.5  # percentiles: the content without outliers lies between them
LEAST_CONTENT = 0.005  # share of the voxels

# A flat voxel of the border has only neighbours of its own value there.
MAIN, MAIN_FLAT = 0.1, 0.5  # share of the border, and flat share of the commonest value's voxels
MORE, MORE_FLAT = 0.002, 0.8  # the same for any further value
WHITE = 0.5  # of the border; a background brighter than all content covers as much
FRAME = 0.01  # share of voxels inside a frame that may have its value
BOX = 0.9  # share of its bounding box that bright padding fills; saturated tissue fills less


@dataclass(frozen=True)
class Background:
    """Flat values along the border of an image, and the range of the others, the content.

    Attributes:
        main: the commonest value; inside a frame of padding, if there is one.
        padding: further values.
        edge: the commonest value of the outermost voxels.
        noise: values this close are equal.
        low, median, upper, high: of the content, without outliers; a tenth is above `upper`.
    """

    main: float
    padding: tuple[float, ...]
    edge: float
    noise: float
    low: float
    median: float
    upper: float
    high: float

    @property
    def span(self) -> float:
        """The range of the content."""
        return self.high - self.low

    def holds(self, values: Values) -> Mask:
        """True where a voxel has a value of the background, wherever it lies."""
        return _near(values, (self.main, *self.padding), self.noise)

    def region(self, values: Values) -> Mask:
        """True where a voxel `holds` such a value and is connected with the border."""
        held = self.holds(values)
        sides = [(0, 0) if n == 1 else (1, 1) for n in held.shape]
        labels = _pieces(np.pad(held, sides, constant_values=True))
        inner = tuple(slice(a, n - a) for (a, _), n in zip(sides, labels.shape, strict=True))
        return np.asarray(labels[inner] == labels[0, 0, 0])


def sample(values: Values) -> Values:
    """Every k-th voxel along each axis, at most SAMPLED."""
    return values[tuple(slice(None, None, -(-n // SAMPLED)) for n in values.shape)]


def find(values: Values) -> Background | None:
    """The background of an image, or None if its border is not flat or there is no content."""
    found = _around(values)
    box = None if found is None else _inside_frame(values, found)
    inner = None if box is None else _around(values[box])
    if found is None or inner is None:
        return found
    frame = (found.main, *found.padding)
    noise = max(inner.noise, found.noise)
    return replace(inner, padding=(*inner.padding, *frame), edge=found.main, noise=noise)


def _around(values: Values) -> Background | None:
    noise = _noise(values)
    flat = list(_flat_values(values, noise))
    if not flat:
        return None
    (main, share), *more = flat
    padding = tuple(v for v, _ in more if v < main or _fills_boxes(values, v, noise))
    some = sample(values)
    content = some[~_near(some, (main, *padding), noise)]
    if content.size < LEAST_CONTENT * some.size:
        return None
    ranks = (DARKEST, 50.0, 90.0, BRIGHTEST)
    low, median, upper, high = map(float, np.percentile(content, ranks))
    if high - low <= noise or (main >= high and share < WHITE):
        return None
    main = 0.0 if abs(main) <= noise else main
    return Background(main, padding, main, noise, low, median, upper, high)


def _noise(values: Values) -> float:
    """NOISE of the range of all values but the commonest one of the border; 0 if all are equal."""
    border = np.concatenate([face.ravel() for face in faces(values)])
    levels, counts = np.unique(border, return_counts=True)
    some = sample(values)
    rest = some[some != levels[counts.argmax()]]
    low, high = np.percentile(rest, (DARKEST, BRIGHTEST)) if rest.size else (0.0, 0.0)
    return NOISE * float(high - low)


def _flat_values(values: Values, noise: float) -> Iterator[tuple[float, float]]:
    """Values of the border and the share that each covers flatly, the commonest first."""
    sides = [face.astype(np.float64) for face in faces(values)]
    border = np.concatenate([side.ravel() for side in sides])
    flat = np.concatenate([side[_flat(side, noise)] for side in sides])
    least, least_flat = MAIN, MAIN_FLAT
    while flat.size >= least * border.size:
        value = _commonest(flat, noise)
        own = _near(flat, (value,), noise)
        share = float(own.sum()) / border.size
        if share < least:
            return
        if own.sum() >= least_flat * _near(border, (value,), noise).sum():
            yield value, share
        elif least == MAIN:
            return
        flat, least, least_flat = flat[~own], MORE, MORE_FLAT


def _commonest(values: Values, noise: float) -> float:
    """The middle of the narrow range, 2 `noise` wide, that most values lie in."""
    ordered = np.sort(values)
    counts = np.searchsorted(ordered, ordered + 2 * noise, "right") - np.arange(len(ordered))
    start = int(counts.argmax())
    return float(ordered[start + (counts[start] - 1) // 2])


def _flat(face: Values, noise: float) -> Mask:
    """(N, M): True where a voxel of a face and its four neighbours are equal."""
    out = np.ones(face.shape, bool)
    for axis in (0, 1):
        equal = np.abs(np.diff(face, axis=axis)) <= noise
        for ends in ((0, 1), (1, 0)):
            wide = [ends if k == axis else (0, 0) for k in (0, 1)]
            out &= np.pad(equal, wide, constant_values=True)
    return out


def faces(values: Values) -> list[Values]:
    """The six outermost layers, (N, M) each; of a slice, the four along its sides."""
    wide = [axis for axis in range(3) if values.shape[axis] > 1]
    return [values.take(end, axis=axis) for axis in wide for end in (0, -1)]


def _near(values: Values, levels: Sequence[float], noise: float) -> Mask:
    out = np.zeros(values.shape, bool)
    for level in levels:
        out |= (values >= level - noise) & (values <= level + noise)
    return out


def _inside_frame(values: Values, found: Background) -> tuple[slice, ...] | None:
    """The box that a frame of the main value leaves, or None if there is no frame."""
    if _box_of(~_near(sample(values), (found.main,), found.noise)) is None:
        return None
    return _box_of(~_near(values, (found.main,), found.noise))


def _box_of(mask: Mask) -> tuple[slice, ...] | None:
    """The bounding box of a mask that fills it, but for FRAME of it; None if it does not."""
    box = []
    for axis in range(3):
        along = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        box.append(slice(int(along[0]), int(along[-1]) + 1) if along.size else slice(0, 0))
    part = mask[tuple(box)]
    filled = part.size and part.mean() >= 1 - FRAME
    return tuple(box) if filled and part.size < mask.size else None


def _fills_boxes(values: Values, value: float, noise: float) -> bool:
    """Whether the pieces of one value at the border are boxes."""
    from scipy import ndimage

    labels = _pieces(_near(values, (value,), noise))
    at_border = np.unique(np.concatenate([face.ravel() for face in faces(labels)]))
    at_border = at_border[at_border > 0]
    boxes = ndimage.find_objects(labels.view(np.int32))
    box = sum(labels[boxes[label - 1]].size for label in at_border)
    return bool(np.bincount(labels.ravel())[at_border].sum() >= BOX * box)


def _pieces(mask: Mask) -> NDArray[np.uint32]:
    """Numbers of the connected pieces of a mask; 0 outside."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    pieces: NDArray[np.uint32] = sitk.GetArrayFromImage(sitk.ConnectedComponent(image))
    return pieces
