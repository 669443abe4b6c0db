"""Grids, working grids and the field on disk: index, millimetre and axis conventions."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from samples import DIRECTIONS, GRIDS, LPS, field_image, voxel_points

from hsyn_cli.space import (
    Grid,
    affine_parts,
    field_from_lps,
    field_to_lps,
    nearest_lps,
    strided,
    working_grid,
)
from hsyn_cli.tools.mapping import index_slabs, mapped_points

every_grid = pytest.mark.parametrize("name", GRIDS)


@every_grid
def test_points_are_simpleitks(name: str) -> None:
    grid = GRIDS[name]
    image = grid.empty_image(sitk.sitkUInt8)
    assert Grid.of(image) == grid
    index = np.array([[0, 0, 0], [3, 1, 2], [1.25, -0.5, 6.75]])
    points = [image.TransformContinuousIndexToPhysicalPoint(i) for i in index.tolist()]
    np.testing.assert_allclose(grid.points(index), points, atol=1e-9)
    np.testing.assert_allclose(grid.indices(np.array(points)), index, atol=1e-9)


def test_same_as_forgives_rounding_and_nothing_else() -> None:
    grid = GRIDS["oblique"]
    near = Grid(grid.size, grid.spacing, tuple(v + 1e-5 for v in grid.origin), grid.direction)  # type: ignore[arg-type]
    assert grid.same_as(near)
    assert not grid.same_as(Grid(grid.size, grid.spacing, (0.0, 0.0, 0.0), grid.direction))
    assert not grid.same_as(Grid(grid.size, (1.2, 0.8, 2.51), grid.origin, grid.direction))
    assert not grid.same_as(Grid(grid.size, grid.spacing, grid.origin, LPS))
    assert not grid.same_as(Grid((9, 12, 8), grid.spacing, grid.origin, grid.direction))


@pytest.mark.parametrize("name", DIRECTIONS)
def test_nearest_lps_reorders_and_flips_columns_only(name: str) -> None:
    direction = np.reshape(DIRECTIONS[name], (3, 3))
    axes = nearest_lps(direction)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) > 0
    assert (np.diag(axes) > 0.7).all()
    matches = np.abs(axes.T @ direction)  # every new axis is an old one, up to its sign
    np.testing.assert_allclose(np.sort(matches, axis=1)[:, -1], 1, atol=1e-9)


@every_grid
@pytest.mark.parametrize(("margin", "multiple"), [(0.0, 1), (5.0, 8)])
def test_a_working_grid_covers_the_box_and_little_more(
    name: str, margin: float, multiple: int
) -> None:
    image = GRIDS[name]
    low, high = np.array([1.0, 2.0, 0.0]), np.array([7.0, 9.0, 6.0])
    grid = working_grid(image, (low, high), 2.0, margin, multiple)
    assert grid.spacing == (2.0, 2.0, 2.0)
    assert all(n % multiple == 0 for n in grid.size)
    corners = image.points(np.array(list(itertools.product(*zip(low, high, strict=True)))))
    index = grid.indices(corners)
    last = np.array(grid.size) - 1
    assert (index >= margin / 2 - 1e-6).all()
    assert (index <= last - margin / 2 + 1e-6).all()
    assert (index.min(0) <= margin / 2 + multiple + 1).all()
    assert (last - index.max(0) <= margin / 2 + multiple + 1).all()


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_working_grid_of_equal_spacing_shares_the_images_voxels(name: str) -> None:
    image = Grid((9, 12, 7), (1.0, 1.0, 1.0), (-31.0, 12.5, 7.25), DIRECTIONS[name])
    grid = working_grid(image, (np.zeros(3), np.array([8.0, 11.0, 6.0])), 1.0, 3.0, 4)
    index = image.indices(grid.points(np.array([[0.0, 0, 0], [3, 4, 5]])))
    np.testing.assert_allclose(index, np.rint(index), atol=1e-6)


def test_strided_keeps_the_extent_and_centres_the_cells() -> None:
    grid = Grid((8, 12, 4), (1.5, 1.5, 1.5), (-3.0, 4.0, 5.0), DIRECTIONS["oblique"])
    coarse = strided(grid, 4)
    assert coarse.size == (2, 3, 1)
    assert coarse.spacing == (6.0, 6.0, 6.0)
    cell = np.array(list(itertools.product((4.0, 5, 6, 7), (0.0, 1, 2, 3), (0.0, 1, 2, 3))))
    np.testing.assert_allclose(
        coarse.points(np.array([1.0, 0, 0])), grid.points(cell).mean(0), atol=1e-9
    )
    assert strided(grid, 1) == grid
    with pytest.raises(ValueError, match="does not divide"):
        strided(grid, 8)


@every_grid
def test_a_field_survives_the_way_to_lps_and_back(name: str) -> None:
    grid = GRIDS[name]
    u = np.random.default_rng(0).normal(size=(3, *reversed(grid.size))).astype(np.float32)
    image = field_to_lps(u, grid)
    assert image.GetPixelID() == sitk.sitkVectorFloat32
    assert Grid.of(image) == grid
    np.testing.assert_allclose(field_from_lps(image), u, atol=1e-5)


@every_grid
def test_a_step_of_one_voxel_on_disk_is_what_simpleitk_does(name: str) -> None:
    grid = GRIDS[name]
    u = np.zeros((3, *reversed(grid.size)), np.float32)
    u[1] = grid.spacing[1]  # one voxel along the second index axis
    image = grid.stamp(sitk.GetImageFromArray(np.random.default_rng(1).random(u.shape[1:])))
    transform = sitk.DisplacementFieldTransform(
        sitk.Cast(field_to_lps(u, grid), sitk.sitkVectorFloat64)
    )
    moved = sitk.GetArrayFromImage(sitk.Resample(image, transform))
    np.testing.assert_allclose(
        moved[1:-1, 1:-2, 1:-1], sitk.GetArrayFromImage(image)[1:-1, 2:-1, 1:-1], atol=1e-4
    )


def test_lps_vectors_are_read_along_the_images_own_axes() -> None:
    grid = GRIDS["oblique"]
    towards = grid.axes[:, 2]  # the third index axis, in LPS
    image = field_image(grid, np.broadcast_to(4 * towards, voxel_points(grid).shape))
    u = field_from_lps(image)
    assert u.dtype == np.float32
    np.testing.assert_allclose(
        u.reshape(3, -1).T, np.broadcast_to([0, 0, 4], (u[0].size, 3)), atol=1e-5
    )


def test_affine_parts_of_any_linear_transform() -> None:
    similarity = sitk.Similarity3DTransform(1.2, (0, 0, 1), 0.4, (5, -6, 7), (10, 20, 30))
    a, t = affine_parts(similarity)
    for point in ((0.0, 0.0, 0.0), (4.0, -5.0, 6.0)):
        np.testing.assert_allclose(a @ point + t, similarity.TransformPoint(point), atol=1e-9)


@pytest.mark.parametrize("name", GRIDS)
def test_parts_of_a_grid_keep_its_points(name: str) -> None:
    grid = GRIDS[name]
    whole = voxel_points(grid)
    np.testing.assert_allclose(voxel_points(grid.slab(2, 5)), whole[2:5], atol=1e-9)
    np.testing.assert_allclose(voxel_points(grid.thinned(4)), whole[::2, ::3, ::3], atol=1e-9)
    assert grid.thinned(12) == grid
    assert grid.contains(whole).all()
    edges = np.array([[-0.49, 0, 0], [8.49, 11.4, 6.4], [-0.51, 0, 0], [0, 11.51, 0]])
    assert grid.contains(grid.points(edges)).tolist() == [True, True, False, False]


def test_mapped_points_are_those_of_the_transform() -> None:
    turn = sitk.Euler3DTransform((1, 2, 3), 0.2, 0.1, -0.3, (4, 5, 6))
    grid = GRIDS["oblique mirror"]
    got = mapped_points(turn, grid)
    assert got.shape == (7, 12, 9, 3)
    expected = turn.TransformPoint(grid.points(np.array([3.0, 2, 1])).tolist())
    assert got[1, 2, 3] == pytest.approx(expected)


@pytest.mark.parametrize("voxels", [1, 300, 10**6])
def test_slabs_cover_the_reference_whatever_their_size(voxels: int) -> None:
    reference, target = GRIDS["oblique"], GRIDS["LPS"]
    turn = sitk.Euler3DTransform((-31, 12, 7), 0.2, 0.1, -0.3)
    points = mapped_points(turn, reference)
    seen = np.full((*points.shape[:3], 3), np.nan)
    for slab, inside, index in index_slabs(turn, reference, target, voxels):
        seen[slab][inside] = index
    inside = target.contains(points)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_allclose(seen[inside], target.indices(points)[inside])
    assert np.isnan(seen[~inside]).all()


@pytest.mark.parametrize("name", GRIDS)
def test_a_part_holds_the_points_it_covers_and_lies_where_it_did(name: str) -> None:
    grid = GRIDS[name]
    points = grid.points(np.array([[2.2, 3.0, 1.5], [5.7, 8.1, 3.9]]))
    part, where = grid.part(grid.covered(points))
    assert part.contains(points).all()
    assert np.prod(part.size) < np.prod(grid.size)
    whole = voxel_points(grid)[where[2:]]
    np.testing.assert_allclose(voxel_points(part), whole, atol=1e-9)
    everything, _ = grid.part(grid.covered(grid.corners()))
    assert everything.same_as(grid)
    outside, _ = grid.part(grid.covered(points + 1000.0))
    assert min(outside.size) >= 2
