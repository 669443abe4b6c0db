"""Chains of transforms: order, inverses, files, grids that miss, composition; against ANTs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from chains import AFFINE, CENTRE, grid, saved, waves
from samples import voxel_points

from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.io import images, writing
from hsyn_cli.io.transforms import write_transform
from hsyn_cli.space import Grid
from hsyn_cli.tools import chain as chains
from hsyn_cli.tools.mapping import mapped_points


def through(links: Sequence[sitk.Transform], point: Sequence[float]) -> tuple[float, ...]:
    for link in links:
        point = link.TransformPoint(tuple(point))
    return tuple(point)


def test_points_go_through_the_first_transform_typed_first(tmp_path: Path) -> None:
    field, affine = saved(tmp_path, grid("oblique"))
    warp = sitk.DisplacementFieldTransform(sitk.ReadImage(field, sitk.sitkVectorFloat64))
    point = (4.0, -6.0, 12.0)
    for typed, links in (
        ([field, affine], [warp, AFFINE]),
        ([affine, field], [AFFINE, warp]),
        ([f"[{affine},1]", field], [AFFINE.GetInverse(), warp]),
        ([field, f"[{affine}, 0]"], [warp, AFFINE]),
    ):
        chain = chains.read(typed)
        assert chain.transform.TransformPoint(point) == pytest.approx(
            through(links, point), abs=1e-9
        )
        moved, told = chains.move_points(chain, np.array([point]))
        assert (moved[0].tolist(), told) == (pytest.approx(through(links, point), abs=1e-9), ())
    assert [source.inverse for source in chains.read([f"[{affine},1]", field]).sources] == [
        True,
        False,
    ]


ANTS_CHAINS = [
    ["field"],
    ["field", "affine"],
    ["[affine,1]", "field"],
    ["affine", "field"],
    ["[affine,1]"],
]


@pytest.mark.parametrize("typed", ANTS_CHAINS, ids=" ".join)
@pytest.mark.parametrize("fixed", ["oblique", "flipped"])
def test_points_move_as_ants_moves_them(tmp_path: Path, fixed: str, typed: list[str]) -> None:
    import ants
    import pandas as pd

    names = dict(zip(("field", "affine"), saved(tmp_path, grid(fixed)), strict=True))
    points = CENTRE + np.random.default_rng(1).uniform(-6, 6, (40, 3))
    inverses = [text.startswith("[") for text in typed]
    plain = [names[text.strip("[],1")] for text in typed]
    frame = pd.DataFrame(points, columns=["x", "y", "z"])
    theirs = ants.apply_transforms_to_points(3, frame, plain, whichtoinvert=inverses)[
        ["x", "y", "z"]
    ].to_numpy()
    given = [f"[{path},1]" if back else path for path, back in zip(plain, inverses, strict=True)]
    ours, told = chains.move_points(chains.read(given), points)
    assert np.abs(ours - theirs).max() < 1e-3
    assert np.abs(ours - points).max() > 0.5
    assert told == ()


@pytest.mark.parametrize("extension", [".mat", ".txt", ".tfm", ".h5"])
def test_linear_files_of_every_kind_and_their_inverse(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"t{extension}"
    write_transform(AFFINE, path)
    point = (1.0, 2.0, 3.0)
    there = chains.read([path]).transform.TransformPoint(point)
    assert there == pytest.approx(AFFINE.TransformPoint(point), abs=1e-6)
    assert chains.read([f"[{path},1]"]).transform.TransformPoint(there) == pytest.approx(
        point, abs=1e-6
    )


def test_a_composite_file_and_transforms_in_memory_are_taken_apart(tmp_path: Path) -> None:
    at = grid("oblique")
    warp = sitk.DisplacementFieldTransform(sitk.Cast(waves(at), sitk.sitkVectorFloat64))
    both = sitk.CompositeTransform([AFFINE, warp])  # the field first
    sitk.WriteTransform(both, str(tmp_path / "both.h5"))
    point = (4.0, -6.0, 12.0)
    for given in (tmp_path / "both.h5", both):
        chain = chains.read([given])
        assert chain.transform.TransformPoint(point) == pytest.approx(
            both.TransformPoint(point), abs=1e-6
        )
        assert [link.grid is None for link in chain.links] == [False, True]
        assert chain.grid is not None
        assert chain.grid.same_as(at)
    with pytest.raises(UsageError, match="only linear transforms are inverted"):
        chains.read([f"[{tmp_path / 'both.h5'},1]"])
    curved = sitk.BSplineTransformInitializer(waves(at), (2, 2, 2))
    curved.SetParameters(
        np.random.default_rng(0).normal(0, 2, len(curved.GetParameters())).tolist()
    )
    sitk.WriteTransform(curved, str(tmp_path / "curved.tfm"))
    moved = chains.read([tmp_path / "curved.tfm"]).transform.TransformPoint(point)
    assert moved == pytest.approx(curved.TransformPoint(point), abs=1e-4)


@pytest.mark.parametrize("pixel", [sitk.sitkVectorFloat32, sitk.sitkVectorFloat64])
def test_a_field_in_memory_is_left_as_it_was(pixel: int) -> None:
    field = sitk.Cast(waves(grid("RAS")), pixel)
    before = sitk.GetArrayFromImage(field)
    chain = chains.read([field])
    assert chain.grid == Grid.of(field)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(field), before)
    assert before.any()


def test_intent_1006_is_read_as_itk_reads_it(tmp_path: Path) -> None:
    """RAS vectors: ITK turns them to LPS."""
    import nibabel as nib

    field, _ = saved(tmp_path, grid("oblique"))
    file = nib.load(field)
    file.header["intent_code"] = 1006
    values = np.asanyarray(file.dataobj) * [-1, -1, 1]
    nib.save(nib.Nifti1Image(values.astype(np.float32), None, file.header), tmp_path / "ras.nii.gz")
    one, two = (chains.read([path]).transform for path in (field, tmp_path / "ras.nii.gz"))
    assert one.TransformPoint(CENTRE.tolist()) == pytest.approx(
        two.TransformPoint(CENTRE.tolist()), abs=1e-5
    )


def test_what_is_no_transform_is_refused(tmp_path: Path) -> None:
    import nibabel as nib

    field, affine = saved(tmp_path, grid("LPS"))
    scalar, plain, nan, flat = (tmp_path / f"{name}.nii.gz" for name in ("s", "p", "n", "c"))
    writing.write_image(sitk.VectorIndexSelectionCast(waves(grid("LPS")), 0), scalar)
    file = nib.load(field)
    file.header["intent_code"] = 0
    nib.save(nib.Nifti1Image(np.asanyarray(file.dataobj), None, file.header), plain)
    broken = waves(grid("LPS"))
    broken[1, 2, 3] = (0.0, float("nan"), 0.0)
    sitk.WriteImage(broken, str(nan))
    colour = np.zeros((6, 6, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), flat)
    for given, kind, text in (
        (scalar, InputError, "is not a displacement field"),
        (plain, InputError, r"does not say what its vectors are .*intent 0"),
        (flat, InputError, r"is not a displacement field .*intent"),
        (nan, InputError, "holds 1 NaN"),
        (broken, InputError, "holds NaN"),
        (tmp_path / "none.nii.gz", InputError, "no such file"),
        (tmp_path / "none.mat", InputError, "no such file"),
        (f"[{field},1]", UsageError, "only linear transforms"),
        (f"[{affine}]", UsageError, "neither FILE nor"),
        (f"[{affine},2]", UsageError, "neither FILE nor"),
    ):
        with pytest.raises(kind, match=text):
            chains.read([given])
    with pytest.raises(InputError) as caught:
        chains.read([plain])
    assert "hsyn convert" in caught.value.hint
    with pytest.raises(UsageError) as usage:
        chains.read([f"[{field},1]"])
    assert "hsyn invert" in usage.value.hint
    with pytest.raises(UsageError, match="no transform"):
        chains.read([])


def test_the_reference_is_the_grid_of_the_first_field_unless_given(tmp_path: Path) -> None:
    at = grid("oblique mirror")
    field, affine = saved(tmp_path, at)
    assert chains.reference_grid(chains.read([field, affine]), None).same_as(at)
    other = grid("RAS", (5, 6, 7))
    writing.write_image(other.empty_image(sitk.sitkUInt8), tmp_path / "r.nii")
    assert chains.reference_grid(chains.read([field]), tmp_path / "r.nii").same_as(other)
    with pytest.raises(UsageError, match="--reference is missing"):
        chains.reference_grid(chains.read([affine, field]), None)


@pytest.mark.parametrize("lattice", [5, 64])
def test_grids_that_do_not_meet(lattice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "LATTICE", lattice)
    reference = grid("oblique")
    far = sitk.TranslationTransform(3, (500.0, 0.0, 0.0))
    chain = chains.read([far, waves(reference)])
    with pytest.raises(
        GeometryError, match=r"outside the grid of the field field 2, as the chain takes it there"
    ):
        chains.check_fields(chain, reference)
    with pytest.raises(GeometryError, match="no point lies on the grid"):
        chains.move_points(chain, CENTRE[None])
    with pytest.raises(GeometryError, match=r"lies wholly outside the image m\.nii"):
        chains.check_image(chains.read([far]), reference, grid("RAS"), "m.nii")
    speck = replace(
        grid("LPS", (1, 1, 1), 0.7), origin=reference.slab(5, 6).points(np.array([6.9, 7.1, 0.1]))
    )
    chains.check_image(
        chains.read([sitk.Transform(3, sitk.sitkIdentity)]), reference, speck, "m.nii"
    )


def test_the_share_of_the_reference_outside_a_field_is_told() -> None:
    at = grid("oblique")
    whole = chains.read([waves(at)])
    assert chains.check_fields(whole, at) == ()
    wide = replace(at.shifted(np.array([-8.0, 0.0, 0.0])), size=(24, *at.size[1:]))
    (line,) = chains.check_fields(whole, wide)
    assert line.startswith("33 % of the reference lies outside the grid of field 1")
    inside = at.points(np.array([[3.0, 4.0, 5.0], [-9.0, 4.0, 5.0]]))
    moved, (line,) = chains.move_points(whole, inside)
    assert line.startswith("1 of 2 points lie outside")
    assert moved[1] == pytest.approx(inside[1])
    assert np.abs(moved[0] - inside[0]).max() > 0.1


@pytest.mark.parametrize("direction", ["oblique", "RAS", "oblique mirror"])
def test_a_composed_field_is_the_chain(tmp_path: Path, direction: str) -> None:
    field, affine = saved(tmp_path, grid("flipped"))
    chain = chains.read([field, f"[{affine},1]"])
    reference = grid(direction, (9, 12, 7))
    writing.write_image(chains.to_field(chain, reference), tmp_path / "total.nii.gz")
    total = images.read_field(tmp_path / "total.nii.gz").image
    assert Grid.of(total).same_as(reference)
    got = sitk.GetArrayFromImage(total) + voxel_points(reference)
    assert np.abs(got - mapped_points(chain.transform, reference)).max() < 1e-4
    assert np.abs(sitk.GetArrayFromImage(total)).max() > 1


def test_linear_chains_become_one_affine() -> None:
    turn = sitk.Euler3DTransform((9.0, 8.0, 7.0), 0.1, 0.2, 0.3, (4.0, 5.0, 6.0))
    one = chains.to_affine(chains.read([AFFINE, turn]))
    point = (70.0, -80.0, 90.0)
    assert one.TransformPoint(point) == pytest.approx(through([AFFINE, turn], point), abs=1e-9)
    with pytest.raises(UsageError, match="field 2 is not linear"):
        chains.to_affine(chains.read([AFFINE, waves(grid("LPS"))]))
