"""Images as the registration sees them: the background is the darkest value.

All steps work on views; only what is written is resampled from the images as given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hsyn_cli.anatomy.background import Background, Mask, Values, find, sample
from hsyn_cli.anatomy.hounsfield import in_hounsfield
from hsyn_cli.space import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk

# Shares of the content's range.
BESIDE = 0.05  # a background this close to an end of the content lies at that end
TRACE = 0.01  # values this close to the background are as good as it
FAR, FAR_FROM_ZERO = 1.0, 2.0  # a background further away marks voxels; zero is natural further on
STEP = 1 / 3  # from the darkest content down to a background that was moved

OUTLIERS = 1e-3  # share of the voxels
OUTLIER_GAP = 0.2  # of the range without outliers


@dataclass(frozen=True)
class View:
    """An image and what was changed in it.

    Attributes:
        image: the image given itself, if its background is its darkest value already.
        outside: grey value of the image given beyond its border; None: that of the organ.
        note: what was changed, as the end of "the moving image ..."; "" if nothing was.
    """

    image: sitk.Image
    outside: float | None = None
    note: str = ""

    @property
    def darkest(self) -> float | None:
        """Grey value of `image` beyond its border; None: that of the organ."""
        import SimpleITK as sitk

        if self.outside is None and not self.note:
            return None
        return float(sitk.GetArrayViewFromImage(self.image).min())


def view_of(image: sitk.Image) -> View:
    """An image with its background darkest. A CT in Hounsfield units stays as it is.

    A background amid the content, or far from it, becomes a little darker than the content. If it
    is brighter and the content fades into it, the grey values are inverted. Padding of other values
    and single dark voxels join the background.
    """
    import SimpleITK as sitk

    values = sitk.GetArrayViewFromImage(image)
    if in_hounsfield(values):
        return View(image)
    found = find(values)
    if found is None:
        return _without_outliers(image, values)
    edge = None if abs(found.edge) <= TRACE * found.span else found.edge
    changed, note = _darkened(values, found)
    return View(image if changed is None else _like(image, changed), edge, note)


def _darkened(values: Values, found: Background) -> tuple[Values | None, str]:
    """The values with a dark background, or None if it is dark already; and a note."""
    main, beside = found.main, BESIDE * found.span
    far = (FAR if main else FAR_FROM_ZERO) * found.span
    shaped = found.upper - found.low <= beside  # a mere silhouette
    if main <= found.low + beside and (shaped or found.low - main <= far):
        return _cleaned(values, found)
    region = found.region(values)
    if main >= found.high - beside and main - found.high <= far and _fades(values, region, found):
        changed = _at_least(2 * main - values.astype(np.float32), main)
        changed[region] = main
        return changed, f"has a bright background ({main:g}); hsyn inverts its grey values"
    floor = found.low - STEP * found.span
    changed = _at_least(values, floor)
    changed[region] = floor
    where = "is far below the rest" if main < found.low else "is not its darkest value"
    note = f"has a background of {main:g}, which {where}; hsyn takes it for a little darker"
    return changed, f"{note} than the rest"


def _cleaned(values: Values, found: Background) -> tuple[Values | None, str]:
    """The values without padding, and without voxels darker than a dark background."""
    main, trace = found.main, TRACE * found.span
    low = float(values.min())
    padding = [value for value in found.padding if abs(value - main) > trace]
    if low >= main - trace and not padding:
        return None, ""
    changed = _at_least(values, main)
    if max(padding, default=main) > main:
        changed[found.region(values)] = main
    if padding:
        shown = ", ".join(f"{value:g}" for value in padding)
        end = f"hsyn takes its padding ({shown}) for background, too"
        return changed, f"has a background of {main:g}; {end}"
    return changed, f"has voxels down to {low:g}; hsyn takes all below {main:g} for background"


def _fades(values: Values, region: Mask, found: Background) -> bool:
    """Whether the content that touches a bright background is brighter than most content."""
    beside = np.zeros_like(region)
    for axis in range(3):
        first, last = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(-1)))
        beside[first] |= region[last]
        beside[last] |= region[first]
    touching = values[beside & ~region]
    return bool(touching.size and np.median(touching) > found.median)


def _without_outliers(image: sitk.Image, values: Values) -> View:
    """The image without voxels that lie far below all others. Its border is not flat."""
    some = np.sort(sample(values), axis=None)
    low = float(values.min())
    dark = np.concatenate(([low], some[: 1 + int(OUTLIERS * some.size)])).astype(np.float64)
    gaps = np.flatnonzero(np.diff(dark) > OUTLIER_GAP * (np.percentile(some, 99.5) - dark[-1]))
    outside = low if values.max() < 0 else None
    if not gaps.size:
        return View(image, outside)
    floor = float(dark[gaps[-1] + 1])
    changed = _at_least(values, floor)
    note = f"has single voxels down to {low:g}, far below the rest; hsyn takes {floor:g} for them"
    return View(_like(image, changed), outside if outside is None else floor, note)


def _at_least(values: Values, floor: float) -> Values:
    """A copy as float32 with no value below `floor`."""
    out: Values = np.maximum(values.astype(np.float32), np.float32(floor))
    return out


def _like(image: sitk.Image, values: Values) -> sitk.Image:
    """Values on the grid of `image`."""
    import SimpleITK as sitk

    return Grid.of(image).stamp(sitk.GetImageFromArray(values))
