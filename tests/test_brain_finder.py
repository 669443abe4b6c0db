"""The brains of whole heads are found, and registered as if skull-stripped."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from samples import EXAMPLES

from hsyn_cli.anatomy.intensity import read_intensities
from hsyn_cli.anatomy.organs import Look, find
from hsyn_cli.anatomy.organs.brain import BRAIN, HEAD
from hsyn_cli.anatomy.organs.lung import CHEST
from hsyn_cli.anatomy.scene import prepare_subjects
from hsyn_cli.cohort import costs
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.fields.mutual import Contents
from hsyn_cli.fields.totals import Settled, Totals
from hsyn_cli.method import brain_finder, prepare
from hsyn_cli.method.brain_finder import with_brains
from hsyn_cli.method.states import Pair
from hsyn_cli.results.register_files import Inputs, register_files
from hsyn_cli.results.report import to_dict
from hsyn_cli.results.run_folder import Wanted
from hsyn_cli.space import Grid

GRID = Grid((60, 70, 64), (3.0, 3.0, 3.0), (-90.0, -105.0, -96.0), tuple(np.eye(3).ravel()))


def ball(radius: float) -> np.ndarray:
    z, y, x = (np.arange(n) - n / 2 for n in GRID.size[::-1])
    return z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < (radius / 3) ** 2


def image_of(values: np.ndarray) -> sitk.Image:
    return GRID.stamp(sitk.GetImageFromArray(values))


@pytest.fixture(scope="module")
def head() -> sitk.Image:
    noise = np.random.default_rng(0).uniform(50, 150, ball(1).shape)
    return image_of((noise * ball(90)).astype(np.float32))


@pytest.fixture
def looks(head: sitk.Image) -> tuple[Look, Look]:
    grey = read_intensities(head)
    return Look(HEAD, grey), Look(HEAD, grey)


def finds(monkeypatch: pytest.MonkeyPatch, *radii: float) -> None:
    """The finder finds balls of these radii in turn; 0: nothing."""
    answers = [image_of(ball(r).astype(np.uint8)) if r else None for r in radii]
    monkeypatch.setattr(brain_finder, "find_brain", lambda image: answers.pop(0))


def test_both_brains_become_what_is_registered(
    head: sitk.Image, looks: tuple[Look, Look], monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, 66.0, 60.0)
    found = with_brains((head, head), looks, must=True)
    assert [look.kind for look in found] == [HEAD, HEAD]
    for organ in ("brain", "none"):
        subjects = prepare_subjects((head, head), (None, None), found, find(organ), 99.5)
        assert subjects.middles is None
        for view, radius in zip(subjects.views, (66.0, 60.0), strict=True):
            assert Grid.of(view).same_as(GRID)
            values, brain = sitk.GetArrayFromImage(view), ball(radius)
            assert np.ptp(values[~brain]) == 0
            assert values[brain].min() > values[~brain].max()


@pytest.mark.parametrize(
    ("radii", "said"),
    [
        ((0.0, 60.0), "in the moving image"),
        ((60.0, 0.0), "in the fixed image"),
        ((56.0, 68.0), "0.73 and 1.31 litres"),
    ],
)
def test_a_missing_brain_is_told(
    head: sitk.Image,
    looks: tuple[Look, Look],
    monkeypatch: pytest.MonkeyPatch,
    radii: tuple[float, float],
    said: str,
) -> None:
    finds(monkeypatch, *radii)
    with pytest.raises(InputError, match=said) as raised:
        with_brains((head, head), looks, must=True)
    assert "--head brain" in raised.value.hint
    finds(monkeypatch, *radii)
    assert with_brains((head, head), looks, must=False) == looks


@pytest.mark.parametrize("kinds", [(CHEST, HEAD), (CHEST, CHEST), (BRAIN, BRAIN)])
def test_nothing_is_looked_for_in_other_images(
    head: sitk.Image, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, str]
) -> None:
    finds(monkeypatch)  # a search would fail
    grey = read_intensities(head)
    looks = Look(kinds[0], grey, head), Look(kinds[1], grey, head)
    assert with_brains((head, head), looks, must=True) == looks
    assert find("none").part(head, looks[0]) is head


def test_the_settings_decide(
    head: sitk.Image, looks: tuple[Look, Look], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = SimpleNamespace(image=head, note="")
    pair = Pair((head, head), (view, view), (None, None), looks)  # type: ignore[arg-type]

    def of(pair: Pair, part: str, **more: object) -> Pair:
        finds(monkeypatch, 60.0, 60.0)
        usual = {"search": "near", "start": None, "weights": None}
        return prepare.with_brains(pair, SimpleNamespace(head=part, **usual | more))  # type: ignore[arg-type]

    masked = replace(pair, masks=(None, head))
    turned, begun, own = {"search": "full"}, {"start": sitk.Transform()}, {"weights": "own.pt"}
    for more in (turned, begun, own):
        assert of(pair, "auto", **more) is pair
    assert of(pair, "all") is pair
    assert of(masked, "auto") is masked
    both_of = [of(pair, "brain", **more) for more in ({}, turned, begun, own)]
    for both in (of(pair, "auto"), of(pair, "auto", weights="brain-t1"), *both_of):
        assert both.of_found_brains
        assert all(np.ptp(sitk.GetArrayFromImage(part)[~ball(60.0)]) == 0 for part in both.parts)
    assert of(masked, "brain").of_found_brains
    assert pair.parts == (head, head)


def test_brains_of_heads_have_the_units_and_voxels_of_brains(
    head: sitk.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = sitk.GetArrayFromImage(head)
    brains = [image_of(values * ball(radius)) for radius in (66, 62)]
    stripped = prepare.look(*brains, None, None)
    alone = prepare.look(head, head, None, None)
    for first, radii in ((head, (66.0, 62.0)), (brains[0], (62.0,))):
        finds(monkeypatch, *radii)
        settings = prepare.begin("fast", "none", "cpu", 0, None, "affine", 1.0)
        pair = prepare.with_brains(prepare.look(first, head, None, None), settings)
        found, own = pair.sized(find("none")), stripped.sized(find("none"))
        assert (found.unit, found.voxel) == (own.unit, own.voxel)
        assert alone.extents[1].content > 2 * pair.extents[1].content
        for one, other in zip(pair.extents, stripped.extents, strict=True):
            assert one.content == pytest.approx(other.content, rel=0.02)


def test_a_forecast_knows_when_brains_are_not_looked_for(
    head: sitk.Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("m", "f"):
        sitk.WriteImage(head, str(tmp_path / f"{name}.nii.gz"))
    plain = Inputs(tmp_path / "m.nii.gz", tmp_path / "f.nii.gz")
    voxels = []
    masked = replace(plain, fixed_mask=tmp_path / "f.nii.gz")
    for inputs, options in ((plain, {}), (masked, {}), (plain, {"head": "all"})):
        finds(monkeypatch, 60.0, 60.0)
        voxels.append(costs.look(inputs, options).working)
    assert voxels[0] < 0.8 * voxels[1]
    assert voxels[1] == voxels[2]


def test_a_head_meets_a_skull_stripped_brain(
    head: sitk.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = sitk.GetArrayFromImage(head)
    brain, small = (image_of(noise * ball(radius)) for radius in (64, 50))
    for part in ("auto", "brain"):
        finds(monkeypatch, 62.0)
        settings = prepare.begin("fast", None, "cpu", 0, None, "affine", 1.0, head=part)  # type: ignore[arg-type]
        pair = prepare.with_brains(prepare.look(head, brain, None, None), settings)
        assert [look.kind for look in pair.looks] == [HEAD, BRAIN]
        assert [look.region is None for look in pair.looks] == [False, True]
        assert pair.parts[1] is pair.views[1].image
        assert np.ptp(sitk.GetArrayFromImage(pair.parts[0])[~ball(62.0)]) == 0
        told = prepare.choose(pair, settings).warnings
        assert (prepare.BY_BRAINS in told) == (part == "auto")
        assert not any("skull-strip" in line or "nothing" in line for line in told)
    finds(monkeypatch, 62.0)
    settings = prepare.begin("fast", None, "cpu", 0, None, "affine", 1.0)
    pair = prepare.with_brains(prepare.look(small, head, None, None), settings)
    assert not pair.of_found_brains  # of another size: they do not fit
    assert any("skull-strip" in line for line in prepare.choose(pair, settings).warnings)


class Net:
    """It holds a ball for brain, with the same chance everywhere, or a body as flat as `flat`."""

    stride = 2

    def __init__(self, radius: float, chance: float, flat: float = 1.0) -> None:
        self.radius, self.chance, self.flat = radius, chance, flat

    def __call__(self, shown: torch.Tensor) -> torch.Tensor:
        middle = [torch.arange(n) - n / 2 for n in shown.shape[2:]]
        z, y, x = torch.meshgrid(*middle, indexing="ij")
        near = (z * self.flat) ** 2 + (y**2 + x**2) / self.flat < (self.radius / 3) ** 2
        return (self.chance * near).float().expand_as(shown)


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (Net(66, 0.97), True), (Net(66, 0.95), False), (Net(50, 0.97), False),
        (Net(90, 0.97), False), (Net(60, 0.97, 1.5), True), (Net(60, 0.97, 3), False),
    ],
)  # fmt: skip
def test_only_what_is_surely_a_brain_and_as_large_and_round_is_one(
    head: sitk.Image, monkeypatch: pytest.MonkeyPatch, net: Net, found: bool
) -> None:
    monkeypatch.setattr(brain_finder, "_net", lambda: (net, 3.0))
    mask = brain_finder.find_brain(head)
    assert (mask is not None) == found
    if mask is not None:
        inside = sitk.GetArrayFromImage(sitk.Resample(mask, head)) != 0
        wide = ball(net.radius + 3) if net.flat == 1 else inside  # it grows by a voxel
        assert 0.95 < inside.sum() / wide.sum() < 1.05
        assert np.prod(mask.GetSize()) < 0.9 * inside.size


def test_the_net_finds_the_brain_of_a_painted_head() -> None:
    """A brain in a dark skull and a bright scalp."""
    scan = sitk.ReadImage(str(EXAMPLES / "fixed.nii.gz"), sitk.sitkFloat32)
    wide = [[40] * 3] * 2
    scan = sitk.ConstantPad(scan, *wide, 0.0)
    brain = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(scan > 40, [6] * 3))
    deep = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(brain, squaredDistance=False))
    values = sitk.GetArrayFromImage(scan)
    layers = [(0, np.maximum(values, 30)), (3, 30.0), (9, 15.0), (17, 180.0)]
    image = np.zeros_like(values)
    for depth, grey in reversed(layers):
        image = np.where(deep <= depth, grey, image).astype(np.float32)
    image += np.random.default_rng(0).normal(0, 3, image.shape).astype(np.float32) * (image > 0)
    head = Grid.of(scan).stamp(sitk.GetImageFromArray(image))
    for one in (head, sitk.DICOMOrient(head, "PIR")):
        found = brain_finder.find_brain(one)
        assert found is not None
        near = sitk.Resample(found, one, sitk.Transform(), sitk.sitkNearestNeighbor)
        inside = sitk.GetArrayFromImage(sitk.DICOMOrient(near, "LPS")) != 0
        there = sitk.GetArrayFromImage(sitk.DICOMOrient(brain, "LPS")) != 0
        assert (inside & there).sum() > 0.97 * there.sum()
        assert inside.sum() < 1.3 * there.sum()


def test_register_files_takes_the_brains(
    head: sitk.Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The report tells it, and the fields beside the brains are no more than affine."""
    for name in ("m", "f"):
        sitk.WriteImage(head, str(tmp_path / f"{name}.nii.gz"))
    inputs = Inputs(tmp_path / "m.nii.gz", tmp_path / "f.nii.gz")
    found, cores = [], []
    settle = Totals.settle

    def settled(own: Totals, contents: Contents, steps: int, core: Contents | None) -> Settled:
        cores.append(core and [int(part.sum()) for part in core])
        return settle(own, contents, steps, core)

    monkeypatch.setattr(Totals, "settle", settled)
    for part in ("all", "brain"):
        finds(monkeypatch, 60.0, 60.0)
        wanted = Wanted(tmp_path / part, html=False)
        report = register_files(inputs, wanted, head=part, preset="fast", affine="none")
        found.append(to_dict(report))
        idle = any("changes nothing" in line for line in report.warnings)
        assert not idle
    assert [one["head"] for one in found] == ["all", "brain"]
    assert cores[0] is None
    assert cores[1] == [int(ball(60.0).sum())] * 2
    field = sitk.ReadImage(str(tmp_path / "brain" / "forward_field.nii.gz"))
    beside = sitk.GetArrayFromImage(field)[:, :, :2]
    assert np.abs(beside).max() < 1e-4


def test_what_changes_nothing_is_told(head: sitk.Image) -> None:
    brain = image_of((100.0 * ball(60) * (1 + ball(30))).astype(np.float32))
    settings = prepare.begin("fast", None, "cpu", 0, None, "affine", 1.0, head="brain")
    pair = prepare.with_brains(prepare.look(brain, brain, None, None), settings)
    assert prepare.NO_HEADS in prepare.choose(pair, settings).warnings
    assert not pair.of_found_brains


def test_the_finder_registers_nothing(head: sitk.Image) -> None:
    settings = prepare.begin("fast", "brain-finder", "cpu", 0, None, "affine", 1.0)
    pair = prepare.look(head, head, None, None)
    with pytest.raises(UsageError, match="no net that registers"):
        prepare.choose(pair, settings)
    with pytest.raises(UsageError, match="part of heads"):
        prepare.begin("fast", None, "cpu", 0, None, "affine", 1.0, head="neck")  # type: ignore[arg-type]
