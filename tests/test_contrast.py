"""MIND, whose answers do not depend on contrast, and whether two images have the same one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import picture, smooth_field

from hsyn_cli.anatomy.contrast import Shown, information, relates, relation, rise
from hsyn_cli.fields.sampling import warp
from hsyn_cli.method.forces import forces
from hsyn_cli.method.matching import matches, regression
from hsyn_cli.method.similarity.mind import SIMILARITY, descriptors, pairs

SIZE = (14, 16, 18)
ROLE_WORDS = ("gave the moving one", "gave the fixed one")


def test_there_are_twelve_pairs_of_neighbours() -> None:
    """Heinrich et al. 2013, figure 1."""
    for wide, count in (((True, True, True), 12), ((False, True, True), 4)):  # a slice has four
        found = pairs(wide)
        assert len(found) == count
        assert {sum((a - b) ** 2 for a, b in zip(i, j, strict=True)) for i, j in found} == {2}


def test_descriptors_do_not_depend_on_a_linear_change_of_grey_values() -> None:
    image = picture(SIZE, 1)
    found = descriptors(image)
    assert found.shape == (1, 12, *SIZE)
    assert found.amax(1).min() == 1
    torch.testing.assert_close(descriptors(0.9 - 0.6 * image), found, atol=1e-3, rtol=1e-3)
    assert SIMILARITY.value(image, 0.9 - 0.6 * image, 5) == pytest.approx(0, abs=1e-5)
    assert SIMILARITY.value(image, picture(SIZE, 2), 5) < -0.02


def test_forces_make_images_of_other_contrast_alike() -> None:
    b = picture(SIZE, 1)
    a = warp(b, smooth_field(SIZE, 0.3, 3), 1.0)
    inverted = 0.9 - 0.7 * b
    forward, backward = forces(a, inverted, 5, "mind")
    for image, other, force in ((a, inverted, forward), (inverted, a, backward)):
        before = SIMILARITY.value(image, other, 5)
        assert SIMILARITY.value(warp(image, 0.3 * force, 1.0), other, 5) > before
        assert SIMILARITY.value(warp(image, -0.3 * force, 1.0), other, 5) < before
        assert force.norm(dim=1).max() <= 0.5
    same, _ = forces(a, b, 5, "mind")
    torch.testing.assert_close(same, forward, atol=0.02, rtol=0.05)


def test_flat_ground_exerts_no_force() -> None:
    a = picture(SIZE, 1)
    for force in forces(a, torch.full_like(a, 0.4), 5, "mind"):
        assert torch.isfinite(force).all()
    for force in forces(torch.zeros_like(a), torch.zeros_like(a), 5, "mind"):
        assert force.abs().max() == 0


def tissues(noise: float = 0.02) -> dict[str, np.ndarray]:
    """A ball of two tissues and fluid on air, in the greys of three sequences."""
    axes = np.meshgrid(*(np.linspace(-1, 1, 24),) * 3, indexing="ij")
    radius = np.sqrt(sum(a * a for a in axes))
    rng = np.random.default_rng(0)
    kind = np.select([radius > 0.95, radius > 0.85, radius > 0.6, radius > 0.2], [0, 1, 2, 3], 1)
    greys = {"t1": (0, 0.2, 0.6, 0.9), "t2": (0, 1.0, 0.6, 0.35), "flair": (0, 0.15, 0.7, 0.5)}
    return {
        name: np.clip(np.array(values)[kind] + noise * rng.standard_normal(kind.shape), 0, 1)
        for name, values in greys.items()
    }


def test_the_same_contrast_is_told_from_others() -> None:
    """Fluid is dark in T1 and in FLAIR, and all content is brighter than air."""
    one, two = tissues(), tissues(0.05)
    for name in one:
        assert relation(one[name], two[name]) > 0.8
        assert Shown.in_values(one[name], 0.7 * two[name]).same_contrast(brains=False)
        assert relates(one[name], 0.7 * two[name], None, brains=True)
    for a, b in (("t1", "t2"), ("t1", "flair"), ("flair", "t2")):
        for brains in (False, True):
            assert not Shown.in_values(one[a], two[b]).same_contrast(brains)
            assert not Shown.in_values(two[b], one[a]).same_contrast(brains)
            assert not relates(one[a], two[b], None, brains)


def test_brains_whose_correlation_fluid_makes_have_two_contrasts() -> None:
    """T1 and FLAIR of one person: most of the variance is fluid, and white matter tells."""
    rng = np.random.default_rng(0)
    share = rng.uniform(0, 1, (24, 24, 24))
    t1 = np.interp(share, (0, 0.75, 1), (0.15, 0.6, 0.9))
    flair = np.interp(share, (0, 0.75, 1), (0.15, 0.8, 0.7)) + rng.normal(0, 0.02, share.shape)
    found = Shown.in_values(t1, flair)
    assert found.correlation > 0.5
    assert found.same_contrast(brains=False)
    assert not found.same_contrast(brains=True)
    assert rise(t1, t1**2) > 0.3
    assert rise(t1, 1 - t1) < -0.3
    assert np.isnan(rise(t1[:1, :8, :8], flair[:1, :8, :8]))  # too few to tell


def test_information_is_high_where_one_image_explains_the_other() -> None:
    images = tissues()
    rng = np.random.default_rng(1)
    assert information(images["t1"], images["t2"]) > 0.4
    assert information(images["t1"], rng.permutation(images["t2"].ravel()).reshape(24, 24, 24)) < (
        0.05
    )
    assert np.isnan(information(images["t1"], np.zeros((24, 24, 24))))
    silhouette = np.where(images["t1"] > 0.1, 0.5, 0.0)
    assert information(images["t1"], silhouette) == 0
    assert np.isnan(information(silhouette, silhouette))
    half = images["t1"].copy()
    half[:12] = 0
    assert Shown.in_values(half, images["t1"]).overlap == 1
    assert Shown.in_values(half, half[::-1]).overlap < 0.1


def test_matches_give_each_image_the_contrast_of_the_other() -> None:
    """The mean of T1 where T2 has a grey value, and the other way; fluid and air stay apart."""
    images = {name: image.astype(np.float32) for name, image in tissues().items()}
    found = matches(images["t2"], images["t1"])
    assert {one.which for one in found} == {0, 1}
    assert found[0].ratio >= found[1].ratio > 0.9
    middles = (np.arange(64) + 0.5) / 64
    for one in found:
        image, other = (images[k] for k in (("t2", "t1") if one.which == 0 else ("t1", "t2")))
        mapped = np.interp(image, middles, one.values)
        inside = images["t1"] > 0.1
        assert np.abs(mapped - other)[inside].mean() < 0.05


def test_voxels_beside_edges_do_not_spoil_a_match() -> None:
    """A match of images that lie two voxels apart is nearly that of aligned images."""
    images = {name: image.astype(np.float32) for name, image in tissues().items()}
    moved = np.roll(images["flair"], 2, 0)
    ones = np.ones_like(moved)
    apart = [matches(moved, images["t1"])[0], matches(images["flair"], images["t1"])[0]]
    assert apart[0].which == apart[1].which
    pair = (moved, images["t1"]) if apart[0].which == 0 else (images["t1"], moved)
    plain, _ = regression(*pair, ones)
    used = np.unique((pair[0][pair[0] > 0.1] * 64).astype(int).clip(0, 63))
    off, of_plain = (
        np.abs(values - apart[1].values)[used].mean() for values in (apart[0].values, plain)
    )
    assert off < 0.7 * of_plain


def test_images_that_tell_nothing_of_each_other_are_not_matched() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.1, 1, (24, 24, 24)).astype(np.float32) for _ in range(2))
    assert matches(a, b) == ()
    assert matches(np.zeros_like(a), b) == ()
