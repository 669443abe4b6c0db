"""Thick slices, and slabs that show a part of what the other image shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import DIRECTIONS, EXAMPLES

from hsyn_cli.anatomy.borders import cut_faces
from hsyn_cli.anatomy.intensity import read_intensities
from hsyn_cli.anatomy.organs import find
from hsyn_cli.anatomy.thick import BLUR, blur_along, slice_vector, thinned
from hsyn_cli.config.architecture import Steps
from hsyn_cli.method.register import register
from hsyn_cli.method.steps import pull
from hsyn_cli.method.where import Where
from hsyn_cli.space import Grid, affine_from

MM = 3.0


def smooth_image(size: tuple[int, int, int] = (20, 18, 48)) -> sitk.Image:
    """A blob with waves against a background of 0, voxels of 1 mm."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    values = np.where(x**2 + y**2 + z**2 < 0.8, 100 + 40 * np.sin(9 * z + 3 * x), 0.0)
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0).astype(np.float32))
    image.SetDirection(DIRECTIONS["oblique mirror"])
    image.SetOrigin((5.0, -6.0, 7.0))
    return image


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thinned_slices_keep_their_means_and_their_place(axis: int) -> None:
    size = [20, 18, 22]
    size[axis] = 48
    factors = [1, 1, 1]
    factors[axis] = 6
    fine = smooth_image((size[0], size[1], size[2]))
    thick = sitk.BinShrink(fine, factors)
    found = thinned(thick, 1.0)
    assert thinned(fine, 1.0) is fine
    assert thinned(thick, 4.0) is thick  # as thin as the working voxels
    assert Grid.of(found).same_as(Grid.of(fine), 1e-3)
    again, first = (sitk.GetArrayFromImage(i) for i in (sitk.BinShrink(found, factors), thick))
    inner = first > 60
    assert np.abs(again - first)[inner].mean() < 2
    assert found.GetPixelID() == sitk.sitkFloat32
    assert sitk.GetArrayFromImage(found).max() <= first.max() + 1e-3


def test_thinned_slices_are_nearer_to_the_truth_than_linear_ones() -> None:
    fine = smooth_image()
    thick = sitk.BinShrink(fine, (1, 1, 6))
    truth = sitk.GetArrayFromImage(fine)
    linear = sitk.GetArrayFromImage(sitk.Resample(thick, fine, sitk.Transform(), sitk.sitkLinear))
    ours = sitk.GetArrayFromImage(thinned(thick, 1.0))
    inside = sitk.GetArrayFromImage(sitk.BinaryErode(fine > 1, (2, 2, 6))) > 0
    off = [np.abs(values - truth)[inside].mean() for values in (ours, linear)]
    assert off[0] < 0.6 * off[1]
    assert (ours[sitk.GetArrayFromImage(sitk.BinaryDilate(fine > 1, (1, 1, 12))) == 0] == 0).all()


def test_usual_voxels_and_slices_stay() -> None:
    image = smooth_image()
    assert thinned(image, 1.0) is image
    image.SetSpacing((1.0, 1.0, 1.9))
    assert thinned(image, 1.0) is image
    image.SetSpacing((1.0, 1.0, 9.0))
    single = image[:, :, 20:21]
    assert thinned(single, 1.0) is single


@pytest.fixture(scope="module")
def brains() -> dict[str, sitk.Image]:
    """The example pair on voxels of 3 mm."""
    out = {}
    for name in ("moving", "fixed", "moving_labels", "fixed_labels"):
        image = sitk.ReadImage(str(EXAMPLES / f"{name}.nii.gz"))
        grid = Grid.of(image)
        size = tuple(int(n // MM) for n in grid.size)
        coarse = Grid(size, (MM,) * 3, grid.origin, grid.direction)  # type: ignore[arg-type]
        labels = "labels" in name
        if not labels:
            image = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), 0.4 * MM)
        way = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
        like = coarse.empty_image(image.GetPixelID())
        out[name] = sitk.Resample(image, like, sitk.Transform(), way)
    return out


def middle(image: sitk.Image, deep: int = 14) -> sitk.Image:
    """A slab of that many slices."""
    first = image.GetSize()[2] // 2 - deep // 2
    return image[:, :, first : first + deep]


def overlap(found: sitk.Image, fixed: sitk.Image) -> float:
    a, b = (sitk.GetArrayFromImage(image) for image in (found, fixed))
    ids = [k for k in np.unique(b) if k and (b == k).sum() > 60]
    both = [((a == k) & (b == k)).sum() for k in ids]
    return float(np.mean([2 * n / ((a == k).sum() + (b == k).sum())
                          for k, n in zip(ids, both, strict=True)]))  # fmt: skip


def warped(labels: sitk.Image, field: sitk.Image, like: sitk.Image) -> sitk.Image:
    there = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    return sitk.Resample(labels, like, there, sitk.sitkNearestNeighbor, 0)


def test_a_slab_is_registered_as_the_whole(brains: dict[str, sitk.Image]) -> None:
    """Either image is cut. What only the other one shows must not pull."""
    moving, fixed = brains["moving"], brains["fixed"]
    of_moving, of_fixed = brains["moving_labels"], brains["fixed_labels"]
    part = middle(of_fixed)
    whole = register(moving, fixed)
    usual = overlap(warped(of_moving, whole.forward_field, part), part)
    slab = register(moving, middle(fixed))
    assert overlap(warped(of_moving, slab.forward_field, part), part) > usual - 0.03
    assert slab.facts.problems == ()
    cut = register(middle(moving), fixed)
    inside = warped(sitk.Cast(middle(moving) > -1, sitk.sitkUInt8), whole.forward_field, of_fixed)
    ours, theirs = (
        overlap(warped(of_moving, run.forward_field, of_fixed) * inside, of_fixed * inside)
        for run in (cut, whole)
    )
    assert ours > theirs - 0.03
    assert cut.facts.problems == ()


def test_networks_are_for_whole_brains(brains: dict[str, sitk.Image]) -> None:
    fine = [sitk.Image(brains[name]) for name in ("moving", "fixed")]
    for image in fine:
        image.SetSpacing((1.0, 1.0, 1.0))
    brain = find("brain")
    assert not brain.unsuited((fine[0], fine[1]))
    assert brain.unsuited((fine[0], middle(fine[1])))
    assert brain.unsuited((middle(fine[0]), fine[1]))
    shares = cut_faces(middle(fine[0]), read_intensities(fine[0]))
    assert min(shares[2]) > 0.5
    assert max(shares[0] + shares[1]) < 0.05


def test_thick_slices_have_inverse_fields(brains: dict[str, sitk.Image]) -> None:
    for thick in ("moving", "fixed"):
        images = {
            name: sitk.BinShrink(brains[name], (1, 1, 4)) if name == thick else brains[name]
            for name in ("moving", "fixed")
        }
        facts = register(images["moving"], images["fixed"], preset="fast").facts
        assert facts.inverse_error_fixed.mean_mm < 0.15
        assert facts.inverse_error_moving.mean_mm < 0.15
        assert facts.folding.voxels == 0
        assert facts.problems == ()


def test_fields_are_smoothed_across_the_slices_of_either_image() -> None:
    thin = Grid.of(smooth_image())
    across_z, across_x = (
        Grid.of(sitk.BinShrink(smooth_image(), factors)) for factors in ((1, 1, 6), (5, 1, 1))
    )
    assert not slice_vector(thin, 1.0).any()
    assert not slice_vector(across_z, 6.0).any(), "the working voxels are as thick"
    vectors = (slice_vector(across_z, 1.0), slice_vector(across_x, 1.0))
    same = affine_from(np.eye(3), np.zeros(3))
    assert blur_along(thin, vectors, same) == pytest.approx((BLUR * 6, 0, BLUR * 5), abs=1e-6)
    quarter = thin.axes @ np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]) @ thin.axes.T
    turned = affine_from(quarter, np.zeros(3))  # brings the slices of z to x
    assert blur_along(thin, vectors, turned) == pytest.approx((0, 0, BLUR * 6), abs=1e-6)


def test_steps_leave_no_detail_across_thick_slices() -> None:
    torch.manual_seed(0)
    pair = torch.rand(2, 1, 16, 16, 16)
    start, steps = torch.zeros(2, 3, 16, 16, 16), Steps(3)
    plain, blurred = (
        pull(pair, start, 1.0, steps, where=Where(blur=(mm, 0.0, 0.0))) for mm in (0.0, 1.5)
    )
    rough = [
        [math.sqrt(u.diff(dim=k).square().mean()) for k in (2, 3, 4)] for u in (plain, blurred)
    ]
    (z0, y0, x0), (z1, y1, x1) = rough
    assert z1 / y1 < 0.6 * z0 / y0
    assert x1 / y1 == pytest.approx(x0 / y0, rel=0.1)
