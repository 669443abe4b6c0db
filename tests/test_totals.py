"""Total fields against SimpleITK's own chain on every kind of grid.

What is told of folding and errors.
"""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import DIRECTIONS, field_image, smooth_field, turned, voxel_points

from hsyn_cli.anatomy.affine import affine_from
from hsyn_cli.fields import mutual
from hsyn_cli.fields.folding import corner_determinant, determinant, determinants
from hsyn_cli.fields.grids import affine_displacement, along_axes, sample_mm
from hsyn_cli.fields.images import to_image, total_images
from hsyn_cli.fields.inverse import fixed_point_inverse
from hsyn_cli.fields.repair import taper, unfolded
from hsyn_cli.fields.sampling import compose
from hsyn_cli.fields.totals import Totals, field_on, total_fields, within
from hsyn_cli.space import Array, Grid, field_to_lps, working_grid

MATRIX = 1.05 * np.reshape(turned(0.1, -0.15, 0.2), (3, 3)) @ np.diag([1.0, 0.95, 1.05])
CENTRE = np.array([20.0, -10.0, 30.0])


def around(
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    direction: tuple[float, ...],
    centre: Array,
) -> Grid:
    """A grid with its middle at `centre`."""
    grid = Grid(size, spacing, (0.0, 0.0, 0.0), direction)
    origin = centre - grid.points((np.array(size) - 1) / 2)
    return Grid(size, spacing, (origin[0], origin[1], origin[2]), direction)


FIXED = {
    name: around(
        (26, 31, 15) if k else (22, 24, 28),
        (1.7, 1.4, 2.9) if k else (1.8, 1.8, 1.8),
        direction,
        CENTRE,
    )
    for k, (name, direction) in enumerate(DIRECTIONS.items())
}
MOVED = CENTRE + np.array([15.0, 5.0, -8.0])
MOVING = {
    name: around((23, 18, 26), (2.0, 2.4, 1.9), direction, MOVED)
    for name, direction in zip(
        DIRECTIONS, [*list(DIRECTIONS.values())[2:], *list(DIRECTIONS.values())[:2]], strict=True
    )
}
PARTS = (MATRIX, MOVED - MATRIX @ CENTRE)  # fixed -> moving
AFFINE = affine_from(*PARTS)


def fields(fixed: Grid, strain: float = 0.35) -> tuple[Grid, torch.Tensor, torch.Tensor]:
    """(working grid, fixed to moving, moving to fixed), mm along_axes the working axes."""
    box = np.zeros(3), np.array(fixed.size) - 1.0
    working = working_grid(fixed, box, 1.5, 6.0, 4)
    u = 1.5 * smooth_field((working.size[2], working.size[1], working.size[0]), strain, 1)
    return working, u, fixed_point_inverse(u, 1.5, -u, 0.005)


def made(name: str, strain: float = 0.35) -> tuple[Totals, torch.Tensor]:
    working, u, v = fields(FIXED[name], strain)
    return total_fields(u, v, working, PARTS, FIXED[name], MOVING[name]), u


every_grid = pytest.mark.parametrize("name", DIRECTIONS)


def transform(image: sitk.Image) -> sitk.DisplacementFieldTransform:
    return sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))


@every_grid
def test_the_forward_field_is_affine_after_deformation(name: str) -> None:
    """d(p) = A(p + u(p)) - p, with u as SimpleITK reads it from the working grid."""
    totals, u = made(name)
    forward, _ = total_images(totals)
    assert Grid.of(forward) == FIXED[name]
    assert forward.GetPixelID() == sitk.sitkVectorFloat32
    chain = sitk.CompositeTransform([AFFINE, transform(field_to_lps(u[0].numpy(), totals.working))])
    points = voxel_points(FIXED[name])[::3, ::3, ::3].reshape(-1, 3)
    expected = np.array([chain.TransformPoint(p) for p in points.tolist()]) - points
    got = sitk.GetArrayFromImage(forward)[::3, ::3, ::3].reshape(-1, 3)
    np.testing.assert_allclose(got, expected, atol=2e-3)


@every_grid
def test_a_working_field_on_another_grid_leaves_the_affine_out(name: str) -> None:
    totals, u = made(name)
    image = to_image(field_on(u, totals.working, FIXED[name]), FIXED[name])
    alone = transform(field_to_lps(u[0].numpy(), totals.working))
    points = voxel_points(FIXED[name])[::3, ::3, ::3].reshape(-1, 3)
    expected = np.array([alone.TransformPoint(p) for p in points.tolist()]) - points
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(image)[::3, ::3, ::3].reshape(-1, 3), expected, atol=2e-3
    )


@every_grid
def test_forward_and_inverse_field_undo_each_other(name: str) -> None:
    totals, _ = made(name)
    forward, inverse = (transform(image) for image in total_images(totals))
    for there, back, start, end in (
        (forward, inverse, FIXED[name], MOVING[name]),
        (inverse, forward, MOVING[name], FIXED[name]),
    ):
        points = voxel_points(start)[2:-2:3, 2:-2:3, 2:-2:3].reshape(-1, 3)
        middle = np.array([there.TransformPoint(p) for p in points.tolist()])
        index = end.indices(middle)
        inside = ((index > 1) & (index < np.array(end.size) - 2)).all(1)
        assert inside.sum() > 50
        home = np.array([back.TransformPoint(p) for p in middle[inside].tolist()])
        error = np.linalg.norm(home - points[inside], axis=1)
        assert error.mean() < 0.06  # what is left is interpolation between voxels of up to 2.9 mm
        assert error.max() < 0.4


@every_grid
def test_the_told_inverse_errors_are_those_simpleitk_finds(name: str) -> None:
    totals, _ = made(name)
    content = tuple(np.zeros(grid.size[::-1], bool) for grid in (FIXED[name], MOVING[name]))
    for mask in content:
        mask[3:-3, 4:-4, 5:-5] = True
    told = totals.settle(content, 0).errors
    forward, inverse = (transform(image) for image in total_images(totals))
    for stats, mask, there, back, start, end in (
        (told[0], content[0], forward, inverse, FIXED[name], MOVING[name]),
        (told[1], content[1], inverse, forward, MOVING[name], FIXED[name]),
    ):
        points = voxel_points(start)[mask]
        middle = np.array([there.TransformPoint(p) for p in points.tolist()])
        index = end.indices(middle)
        inside = ((index >= 0) & (index <= np.array(end.size) - 1)).all(1)
        home = np.array([back.TransformPoint(p) for p in middle[inside].tolist()])
        error = np.linalg.norm(home - points[inside], axis=1)
        assert stats.mean_mm == pytest.approx(error.mean(), abs=1e-4)
        assert stats.p99_mm == pytest.approx(np.percentile(error, 99), abs=1e-3)
        assert stats.max_mm == pytest.approx(error.max(), abs=1e-3)


def test_nothing_inside_the_other_grid_gives_nan_not_a_number_made_up() -> None:
    totals, _ = made("LPS")
    far = Grid(FIXED["LPS"].size, FIXED["LPS"].spacing, (9e3, 9e3, 9e3), FIXED["LPS"].direction)
    lost = Totals(totals.forward, totals.inverse, far, totals.moving, totals.working, PARTS)
    masks = tuple(np.ones(grid.size[::-1], bool) for grid in (far, totals.moving))
    assert np.isnan(lost.settle(masks, 0).errors[0].mean_mm)


@every_grid
def test_the_told_determinant_is_that_of_the_written_field(name: str) -> None:
    """Central differences of p + d(p) in mm, by plain numpy from the LPS vectors and the grid."""
    totals, _ = made(name, strain=0.6)
    for told, image, grid in zip(
        totals.folding(), total_images(totals), (FIXED[name], MOVING[name]), strict=True
    ):
        mapped = voxel_points(grid) + sitk.GetArrayFromImage(image)
        columns = [
            np.gradient(mapped, axis=2 - k) / grid.spacing[k] for k in range(3)
        ]  # along_axes index axes
        det = np.linalg.det(np.stack(columns, axis=-1)) * np.linalg.det(grid.axes)
        inner = det[1:-1, 1:-1, 1:-1]
        assert told.min_det == pytest.approx(inner.min(), abs=1e-3)
        assert told.voxels == (inner <= 0).sum()
        z, y, x = np.unravel_index(inner.argmin(), inner.shape)
        assert told.min_det_at_mm == pytest.approx(
            grid.points(np.array([x + 1.0, y + 1, z + 1])), abs=1e-6
        )


@every_grid
def test_folds_are_counted_in_millimetres_and_with_the_direction(name: str) -> None:
    grid = FIXED[name]
    points = voxel_points(grid)
    mirror = np.zeros_like(points)
    d = (points - CENTRE) @ np.array([1.0, 0, 0])
    mirror[..., 0] = -2.5 * d  # x -> -1.5 x: folds everywhere
    totals = Totals(
        torch.from_numpy(mirror).float().movedim(-1, 0)[None],
        torch.zeros(1, 3, *grid.size[::-1]),
        grid,
        grid,
        grid,
        PARTS,
    )
    forward, inverse = totals.folding()
    inner = int(np.prod([n - 2 for n in grid.size]))
    assert (forward.voxels, forward.corner_voxels, forward.percent) == (inner, inner, 100.0)
    assert forward.min_det == pytest.approx(-1.5, abs=1e-3)
    assert (inverse.voxels, inverse.corner_voxels, inverse.percent, inverse.min_det) == (
        0,
        0,
        0.0,
        1.0,
    )


def test_a_composed_field_equals_two_resamplings_in_simpleitk() -> None:
    """The domino rule of names, on disk: fixed -> mid -> moving."""
    grid = around((20, 22, 24), (1.5, 1.5, 1.5), DIRECTIONS["LPS"], CENTRE)
    size = (24, 22, 20)
    fixed_to_mid, mid_to_moving = 1.5 * smooth_field(size, 0.2, 2), 1.5 * smooth_field(size, 0.2, 3)
    total = field_to_lps(compose(fixed_to_mid, mid_to_moving, 1.5)[0].numpy(), grid)
    first, second = (
        transform(field_to_lps(u[0].numpy(), grid)) for u in (fixed_to_mid, mid_to_moving)
    )
    for point in voxel_points(grid)[4:-4:5, 4:-4:5, 4:-4:5].reshape(-1, 3).tolist():
        expected = second.TransformPoint(first.TransformPoint(point))
        assert transform_point(total, point) == pytest.approx(expected, abs=1e-3)


def transform_point(image: sitk.Image, point: list[float]) -> tuple[float, ...]:
    out: tuple[float, ...] = transform(image).TransformPoint(point)
    return out


def test_images_share_no_memory_with_the_tensors() -> None:
    grid = around((5, 6, 7), (1.0, 1.0, 1.0), DIRECTIONS["RAS"], CENTRE)
    totals = Totals(*torch.zeros(2, 1, 3, 7, 6, 5), grid, grid, grid, PARTS)
    image, _ = total_images(totals)
    totals.forward.add_(1)
    assert not sitk.GetArrayFromImage(image).any()
    assert field_image(grid, np.zeros((7, 6, 5, 3))).GetSize() == image.GetSize()


def test_the_fit_lowers_the_errors_of_both_round_trips() -> None:
    working, u, v = fields(FIXED["RAS"])
    content = tuple(np.ones(grid["RAS"].size[::-1], bool) for grid in (FIXED, MOVING))
    errors = []
    for steps in (0, 2, 8):
        totals = total_fields(u, v, working, PARTS, FIXED["RAS"], MOVING["RAS"])
        errors.append(totals.settle(content, steps).errors)
    worst = [max(side.max_mm for side in found) for found in errors]
    mean = [sum(side.mean_mm for side in found) for found in errors]
    assert worst[0] > 1.2 * worst[2]
    assert mean[0] > mean[1] > mean[2]


def test_a_last_step_that_folds_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that fold are unfolded; of one that folds anew, the fields before it stay."""
    totals, _ = made("RAS")
    content = tuple(np.ones(grid.size[::-1], bool) for grid in (FIXED["RAS"], MOVING["RAS"]))
    step, unfolded, asked = mutual._step, Totals._fold_free, []

    def folds(parts: object, sides: tuple[mutual.Side, mutual.Side], *more: object) -> None:
        step(parts, sides, *more)
        sides[0].stack[0, 0, 6:8, 8:10, 10] += 40.0

    def ask(own: Totals, both: mutual.Fields) -> bool:
        asked.append((own.forward.clone(), own.inverse.clone(), unfolded(own, both)))
        return asked[-1][-1]

    monkeypatch.setattr(mutual, "_step", folds)
    monkeypatch.setattr(Totals, "_fold_free", ask)
    settled = totals.settle(content, 3)
    ((forward, inverse, good),) = asked
    assert not good
    assert torch.equal(totals.forward, forward)
    assert torch.equal(totals.inverse, inverse)
    assert all(found.voxels == 0 for found in settled.folding)
    assert settled.folding == totals.folding()
    assert settled.errors[0].max_mm < 10  # not those of the folds


def test_the_fit_keeps_to_the_working_grid_and_the_errors_do_not() -> None:
    fixed, moving = FIXED["RAS"], MOVING["RAS"]
    box = np.full(3, 9.0), np.array(fixed.size) - 9.0
    working = working_grid(fixed, box, 1.5, 0.0, 4)
    u = 1.5 * smooth_field(working.size[::-1], 0.4, 1)
    u = taper(u, 1.5, 3)
    totals = total_fields(u, fixed_point_inverse(u, 1.5, -u, 0.005), working, PARTS, fixed, moving)
    here, _ = totals.bent()
    beyond = torch.ones(fixed.size[::-1], dtype=torch.bool)
    beyond[fixed.part(here)[1][2:]] = False
    assert 0.1 < beyond.float().mean() < 0.99
    totals.forward[0][:, beyond] += 0.5  # an error that no fit is to look for
    content = tuple(np.ones(grid.size[::-1], bool) for grid in (fixed, moving))
    before = totals.forward.clone()
    errors = totals.settle(content, 2).errors
    moved = (totals.forward != before).any(1)[0]
    assert moved.any()
    assert not (moved & beyond).any()
    assert errors[0].max_mm > 0.8  # sqrt(3) / 2


def test_beside_the_core_only_what_is_far_off_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors are those of all content, and large ones fall everywhere."""
    content = tuple(np.ones(grid["RAS"].size[::-1], bool) for grid in (FIXED, MOVING))
    core = tuple(np.zeros_like(part) for part in content)
    for part in core:
        part[part.shape[0] // 2 :] = True
    fitted, found = [], []
    fit = mutual.RoundTrips.fit

    def noted(own: mutual.RoundTrips, steps: int) -> None:
        fitted.append([len(start.voxels) for start in own.starts])
        fit(own, steps)

    monkeypatch.setattr(mutual.RoundTrips, "fit", noted)
    for steps, given in ((0, None), (4, None), (4, core)):
        totals, _ = made("RAS")
        found.append(totals.settle(content, steps, given).errors)
    assert all(0.3 * a < b < 0.7 * a for a, b in zip(*fitted, strict=True))
    mean = [sum(side.mean_mm for side in sides) for sides in found]
    worst = [max(side.max_mm for side in sides) for sides in found]
    assert mean[1] < mean[2] < mean[0]
    assert worst[2] < mutual.FAR < worst[0]


def test_content_within_a_box() -> None:
    content = np.zeros((6, 5, 4), bool)
    content[2, 1, 1:3] = True
    assert within(content, ((1, 0, 0), (3, 5, 6))) is content
    part = within(content, ((2, 1, 2), (4, 2, 3)))
    assert np.argwhere(part).tolist() == [[2, 1, 2]]


def knotted(grid: Grid) -> torch.Tensor:
    """A field on `grid` with one voxel so far away that its neighbours fold."""
    u = torch.full((1, 3, *grid.size[::-1]), 0.01)
    u[0, :, 12, 13, 14] = 30.0  # mm
    assert folded(u, grid)
    return u


@every_grid
def test_a_field_is_smoothed_where_it_folds(name: str) -> None:
    grid = around((30, 28, 26), (2.0, 2.4, 1.9), DIRECTIONS[name], CENTRE)
    u = knotted(grid)
    out = unfolded(u, grid, 2.0)
    assert not folded(out, grid)
    assert corner_determinant(along_axes(out, grid), grid.spacing).min() > 0
    changed = (out - u).abs().amax(1)[0].gt(1e-4).nonzero()
    assert (changed - torch.tensor([12, 13, 14])).abs().max() <= 14
    assert unfolded(out, grid, 2.0) is out


@pytest.mark.parametrize("spacing", [(0.4, 0.4, 0.4), (0.1, 0.4, 0.4), (0.4, 0.4, 3.0)])
def test_a_working_field_seen_on_another_grid_does_not_fold_there(
    spacing: tuple[float, float, float],
) -> None:
    """Positive on its own voxels and folded between: what every written field is kept from."""
    fixed = around((200, 28, 26), spacing, DIRECTIONS["RAS"], CENTRE)
    working = working_grid(fixed, (np.zeros(3), np.array(fixed.size) - 1.0), 1.0, 4.0, 4)
    u = torch.zeros(1, 3, *working.size[::-1])
    x = working.size[0] // 2
    u[:, 0, :, :, x], u[:, 0, :, :, x + 1] = 0.8, -0.9
    points = affine_displacement(fixed, np.eye(3), np.zeros(3), u.device, absolute=True)
    assert not folded(u, working)
    assert folded(sample_mm(u, working, points), fixed)
    seen = field_on(u, working, fixed)
    assert not folded(seen, fixed)
    assert seen.abs().max() > 0.1
    far = (np.diag([1.1, 0.9, 1.0]), np.array([300.0, -200.0, 150.0]))
    origin = far[0] @ np.array(fixed.origin) + far[1]
    moving = Grid(fixed.size, fixed.spacing, tuple(origin.tolist()), fixed.direction)
    totals = total_fields(u, -u, working, far, fixed, moving)
    nothing = [np.zeros(grid.size[::-1], bool) for grid in (fixed, moving)]
    totals.settle((nothing[0], nothing[1]), 4)
    assert [folding.voxels for folding in totals.folding()] == [0, 0]


def test_thick_slices_are_not_mixed_where_a_field_is_mended() -> None:
    grid = around((30, 28, 26), (1.0, 1.0, 6.0), DIRECTIONS["RAS"], CENTRE)
    u = knotted(grid)
    out = unfolded(u, grid, 1.0)
    assert not folded(out, grid)
    changed = (out - u).abs().amax((0, 1, 3, 4))
    assert changed[11:14].max() == changed[12]
    assert set((changed > 1e-4).nonzero()[:, 0].tolist()) <= {11, 12, 13}


def test_what_an_affine_mirrors_is_left_alone() -> None:
    """All of it has a negative determinant; none of it folds."""
    grid = FIXED["RAS"]
    mirror = (np.diag([-1.0, 1.0, 1.0]), np.array([2 * CENTRE[0], 0.0, 0.0]))
    working, u, v = fields(grid)
    totals = total_fields(u, v, working, mirror, grid, grid)
    assert (determinant(along_axes(totals.inverse, grid), grid.spacing) < 0).all()
    content = np.ones(grid.size[::-1], bool)
    plain = total_fields(u, v, working, (np.eye(3), np.zeros(3)), grid, grid)
    errors = [t.settle((content, content), 4).errors[0].mean_mm for t in (totals, plain)]
    assert errors[0] == pytest.approx(errors[1], abs=0.02)


def folded(u: torch.Tensor, grid: Grid) -> bool:
    return bool((determinants(along_axes(u, grid), grid.spacing)[0] <= 0).any())
