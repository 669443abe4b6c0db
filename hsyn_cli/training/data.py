"""Training data: every subject on one common grid, as small integers in a cache folder.

`build_cache` aligns all subjects to the first usable one. The cache keeps grey values, except those
of CT, in steps of 4 of 255, because the noise of training is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hsyn_cli.anatomy import affine, organs
from hsyn_cli.anatomy.intensity import CT_WINDOW, content_box, read_intensities
from hsyn_cli.anatomy.organs import Organ
from hsyn_cli.anatomy.view import view_of
from hsyn_cli.config.training import Training
from hsyn_cli.errors import HsynError, InputError, Interrupted
from hsyn_cli.io import images
from hsyn_cli.space import Grid, working_grid
from hsyn_cli.training.cache import TEST, Cache, Volume, save_cache, settings
from hsyn_cli.training.subjects import Subject as Subject
from hsyn_cli.training.subjects import collect as collect

GREY_STEP = 4
SILHOUETTE = 0.05  # share of the range above which a voxel belongs to the silhouette
MOST_IDS = 255
# Correlation with the mean of the others, relative to the median. Below it, an image counts as
# another modality.
ALIKE = 0.5
Progress = Callable[[str, float], None]


def build_cache(
    subjects: Sequence[Subject], training: Training, out: Path, progress: Progress
) -> Cache:
    """Align every subject to the first usable one, and write the cache to `out`.

    This takes some seconds per subject. It skips unusable subjects, and those for the test, and
    lists the reasons in `Cache.left_out`. Raises InputError if fewer than two subjects remain.
    """
    reference: sitk.Image | None = None
    grid: Grid | None = None
    kept: list[tuple[Subject, Volume | None, NDArray[np.int64] | None]] = []
    left_out: list[str] = []
    notes: list[str] = []
    organ = organs.find(training.sn_net.organ)
    for k, subject in enumerate(subjects):
        progress(f"preparing {k + 1}/{len(subjects)}", k / len(subjects))
        if subject.split == TEST:
            left_out.append(f"{subject.name} is for the test")
            continue
        try:
            read = _read(subject, organ)
            image, labels = read.image, read.labels
            picture = image if image is not None else _painted(cast(sitk.Image, labels), training)
            if organ.maps_from_labels and labels is not None:
                picture = organ.align_by(picture, _counted(labels, training))
            if reference is None or grid is None:
                reference, grid = picture, _frame(picture, training)
            transform = affine.align(
                *_comparable(reference, picture, image is None and not training.intensities)
            )
        except Interrupted:
            raise
        except HsynError as error:
            left_out.append(error.message)
            continue
        arrays = [
            None if v is None else _on(grid, v, transform, None if v is labels else read.outside)
            for v in (image, labels)
        ]
        if not any((v > v.min()).any() for v in arrays if v is not None):
            left_out.append(f"{subject.name} does not overlap {subjects[0].name} after alignment")
            continue
        notes += [f"{subject.name} {read.note}"] if read.note else []
        grey = None if arrays[0] is None else _to_uint8(arrays[0], organ, training)
        kept.append((subject, grey, arrays[1]))
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} of {len(subjects)} subjects can be used",
            "; ".join(left_out[:3]) or "give more",
        )
    cache = _assemble(kept, training, tuple(left_out), notes)
    save_cache(cache, out)
    progress("preparing", 1.0)
    return cache


@dataclass(frozen=True)
class _Read:
    """A subject's prepared image, its grey value beyond its border, its labels, and a note."""

    image: sitk.Image | None
    labels: sitk.Image | None
    outside: float = 0.0
    note: str = ""


def _read(subject: Subject, organ: Organ) -> _Read:
    if subject.image is None:
        assert subject.labels is not None
        blank = images.read_image(subject.labels, "label map").image
        return _Read(None, images.read_labels(subject.labels, blank).image)
    given = images.read_image(subject.image).image
    view = view_of(given)
    appearance = organs.look(view.image)
    organ.check(appearance.grey, str(subject.image))
    labels = images.read_labels(subject.labels, given).image if subject.labels else None
    air = CT_WINDOW[0] if appearance.grey.hounsfield else 0.0
    outside = air if view.darkest is None else view.darkest
    return _Read(organ.prepare(view.image, appearance), labels, outside, view.note)


def _counted(labels: sitk.Image, training: Training) -> sitk.Image:
    """The labels that count as 1, float32."""
    values = sitk.GetArrayViewFromImage(labels)
    counts = values != 0 if training.labels is None else np.isin(values, training.labels)
    return Grid.of(labels).stamp(sitk.GetImageFromArray(counts.astype(np.float32)))


def _comparable(
    fixed: sitk.Image, moving: sitk.Image, shapes: bool
) -> tuple[sitk.Image, sitk.Image]:
    """The images as they are, or their silhouettes if `shapes`, for label maps without contrast."""
    if not shapes:
        return fixed, moving
    grey = read_intensities(fixed)
    shape = fixed > grey.low + SILHOUETTE * (grey.high - grey.low)
    return sitk.Cast(shape, sitk.sitkFloat32), sitk.Cast(moving > 0, sitk.sitkFloat32)


def _frame(picture: sitk.Image, training: Training) -> Grid:
    tight = working_grid(Grid.of(picture), content_box(picture), training.sn_net.spacing, 0.0, 1)
    shift = (np.array(tight.size) - np.array(training.size)) // 2
    x, y, z = tight.points(shift.astype(float))
    return Grid(training.size, tight.spacing, (float(x), float(y), float(z)), tight.direction)


def _on(
    grid: Grid, image: sitk.Image, transform: sitk.Transform, outside: float | None
) -> NDArray[Any]:
    """(Z, Y, X) on the common grid, linear; nearest for labels, whose `outside` is None."""
    linear, near = (sitk.sitkLinear, sitk.sitkFloat32), (sitk.sitkNearestNeighbor, sitk.sitkInt64)
    interpolator, pixel = near if outside is None else linear
    reference = grid.empty_image(sitk.sitkUInt8)
    moved = sitk.Resample(image, reference, transform, interpolator, outside or 0.0, pixel)
    return cast(NDArray[Any], sitk.GetArrayFromImage(moved))


def _to_uint8(values: NDArray[np.float32], organ: Organ, training: Training) -> Volume:
    """Scale the range to 0 to 255; in steps of GREY_STEP except for CT."""
    if organ.ct:
        low, high = CT_WINDOW
        return np.rint(np.clip((values - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)
    low = float(values.min())
    above = values[values > low]
    high = (
        float(np.percentile(above, training.sn_net.inputs.training_percentile))
        if above.size
        else low + 1.0
    )
    grey = np.clip((values - low) * (255 / (high - low)), 0, 255)
    return (np.rint(grey / GREY_STEP) * GREY_STEP).clip(0, 255).astype(np.uint8)


def _painted(labels: sitk.Image, training: Training) -> sitk.Image:
    """A label map as a picture with the grey values of `intensities`; white without them."""
    values = sitk.GetArrayViewFromImage(labels)
    ids, index = np.unique(values, return_inverse=True)
    table = np.array([_grey(int(k), training.intensities) for k in ids], np.float32)
    if training.labels is not None:
        table[~np.isin(ids, training.labels)] = 0
    out = sitk.GetImageFromArray(table[index].reshape(values.shape))
    out.CopyInformation(labels)
    return out


def _grey(label: int, intensities: Mapping[str, float] | None) -> float:
    if label == 0:
        return 0.0
    return 1.0 if intensities is None else intensities.get(str(label), 0.5)


def _assemble(
    kept: Sequence[tuple[Subject, Volume | None, NDArray[np.int64] | None]],
    training: Training,
    left_out: tuple[str, ...],
    notes: Sequence[str],
) -> Cache:
    shape = training.size[::-1]
    present = sorted({int(k) for _, _, v in kept if v is not None for k in np.unique(v)} - {0})
    ids = present if training.labels is None else [k for k in training.labels if k in present]
    counted = len(ids)
    if training.surroundings:
        ids += [k for k in present if k not in ids]
    if len(ids) > MOST_IDS:
        raise InputError(
            f"the label maps hold {len(ids)} ids, more than {MOST_IDS}",
            'list the ids that count as "labels" in --config',
        )
    pictures, maps = (np.zeros((len(kept), *shape), np.uint8) for _ in range(2))
    for k, (_, image, labels) in enumerate(kept):
        if image is not None:
            pictures[k] = image
        if labels is not None:
            for index, label in enumerate(ids, start=1):
                maps[k][labels == label] = index
    names = tuple(subject.name for subject, _, _ in kept)
    has_image = tuple(image is not None for _, image, _ in kept)
    return Cache(
        images=pictures,
        labels=maps,
        has_image=has_image,
        has_labels=tuple(v is not None for _, _, v in kept),
        ids=tuple(ids),
        counted=counted,
        names=names,
        left_out=left_out,
        warnings=(*notes, *_strangers(pictures, has_image, names)),
        made_with=settings(training),
        splits=tuple(subject.split for subject, _, _ in kept if subject.split),
    )


def _strangers(pictures: Volume, has_image: Sequence[bool], names: Sequence[str]) -> Iterator[str]:
    """A warning per image that is unlike the others: another modality, or badly aligned."""
    rows = [k for k, image in enumerate(has_image) if image]
    if len(rows) < 3:
        return
    small = pictures[rows][:, ::4, ::4, ::4].reshape(len(rows), -1).astype(float)
    inside = (small > 0).mean(0) > 0.5
    small = small[:, inside]
    total = small.sum(0)
    alike = np.array([np.corrcoef(v, total - v)[0, 1] for v in small])
    for k, value in zip(rows, alike, strict=True):
        if not value >= ALIKE * np.median(alike):
            numbers = f"correlation {value:.2f}, median {np.median(alike):.2f}"
            yield f"{names[k]} looks unlike the others ({numbers}): another modality?"
