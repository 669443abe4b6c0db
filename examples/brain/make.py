#!/usr/bin/env python3
"""Recreate the example pair from files of two packages. README.md says where they come from.

    python make.py ch2bet.nii.gz aal.nii.gz mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz OUT

Expects aal.nii.txt, the names of the regions, beside aal.nii.gz. The script crops the images to
the brain. It changes no voxel value and no world coordinate. Arrays are (z, y, x). Points are in
mm, LPS. Needs SimpleITK and numpy.
"""

import argparse
import gzip
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

MARGIN = 8  # voxels kept around the brain, where the source grid has them
# Low and high corner (mm, LPS) of a box in the body of the right and the left lateral ventricle.
VENTRICLE_BOXES = (((-16, 5, 18), (-6, 20, 24)), ((6, 5, 18), (16, 20, 24)))
CSF, GREY, WHITE, VENTRICLES = 1, 2, 3, 4


def brain_crop(image: sitk.Image) -> tuple[list[int], list[int]]:
    """Index and size (x, y, z) of the box around voxels above 0, with MARGIN inside the grid."""
    inside = sitk.GetArrayViewFromImage(image) > 0
    corners = []
    for axis in (2, 1, 0):
        used = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = max(used[0] - MARGIN, 0), min(used[-1] + MARGIN + 1, inside.shape[axis])
        corners.append((int(low), int(high - low)))
    return [low for low, _ in corners], [size for _, size in corners]


def class_limits(values: np.ndarray) -> tuple[float, float]:
    """Limits between the three classes of a k-means that starts at the 5, 50 and 95 % quantiles."""
    counts = np.bincount(values)
    level = np.arange(len(counts))
    centres = np.quantile(values, (0.05, 0.5, 0.95))
    while True:
        limits = (centres[1:] + centres[:-1]) / 2
        chosen = np.digitize(level, limits)
        updated = np.array(
            [np.average(level[chosen == k], weights=counts[chosen == k]) for k in range(3)]
        )
        if np.allclose(updated, centres, atol=1e-6):
            return float(limits[0]), float(limits[1])
        centres = updated


def tissue_labels(image: sitk.Image) -> sitk.Image:
    """CSF, grey matter and white matter by k-means of the brain's voxels, and lateral ventricles.

    The ventricles are the CSF that an opening with a ball of one voxel leaves connected to
    VENTRICLE_BOXES.
    """
    intensity = sitk.GetArrayFromImage(image)
    classes = 1 + np.digitize(intensity, class_limits(intensity[intensity > 0]))
    labels = sitk.GetImageFromArray(np.where(intensity > 0, classes, 0).astype(np.uint8))
    labels.CopyInformation(image)
    csf = labels == CSF
    core = sitk.BinaryErode(csf, (1, 1, 1))
    boxes = sitk.Image(core.GetSize(), sitk.sitkUInt8)
    boxes.CopyInformation(core)
    for low, high in VENTRICLE_BOXES:
        ends = np.array([image.TransformPhysicalPointToIndex(corner) for corner in (low, high)])
        (x0, y0, z0), (x1, y1, z1) = ends.min(axis=0).tolist(), (ends.max(axis=0) + 1).tolist()
        boxes[x0:x1, y0:y1, z0:z1] = 1
    ventricles = (
        sitk.BinaryDilate(sitk.BinaryReconstructionByDilation(boxes & core, core), (1, 1, 1)) & csf
    )
    return sitk.Mask(labels, ventricles == 0) + ventricles * VENTRICLES


def region_names(table: Path) -> str:
    """The lines "id name code" of MRIcron's table as a CSV with the columns index and name."""
    rows = [
        line.split()[:2] for line in table.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    return "".join(f"{index},{name}\n" for index, name in [("index", "name"), *rows])


def write(image: sitk.Image, path: Path) -> None:
    """Write gzip level 9 without time or name, so that the same input gives the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "image.nii"
        sitk.WriteImage(image, plain)
        path.write_bytes(gzip.compress(plain.read_bytes(), 9, mtime=0))


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    for name in ("colin27", "aal", "mni152", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    moving, fixed = sitk.ReadImage(args.colin27), sitk.ReadImage(args.mni152)
    regions = sitk.ReadImage(args.aal)
    index, size = brain_crop(moving)
    moving, regions = (sitk.RegionOfInterest(image, size, index) for image in (moving, regions))
    index, size = brain_crop(fixed)
    fixed = sitk.RegionOfInterest(fixed, size, index)
    write(moving, args.out / "moving.nii.gz")
    write(fixed, args.out / "fixed.nii.gz")
    write(tissue_labels(moving), args.out / "moving_labels.nii.gz")
    write(tissue_labels(fixed), args.out / "fixed_labels.nii.gz")
    write(regions, args.out / "moving_regions.nii.gz")
    names = region_names(args.aal.with_suffix(".txt"))  # aal.nii.gz -> aal.nii.txt
    (args.out / "moving_regions.csv").write_text(names, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
