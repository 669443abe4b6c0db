"""The paper's inference, top to bottom: affine, SN-Net, refinement, DI-Net, exact inverse, composition, warping."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk
import torch
from torch import Tensor

from hsyn_cli import affine as affine_step
from hsyn_cli import config, organs, report
from hsyn_cli.devices import choose_device, device_name, use_threads
from hsyn_cli.errors import UsageError, WeightsError
from hsyn_cli.fields import compose, downsample, resampled, resize, warp
from hsyn_cli.images import ImageLike, as_image, read_mask
from hsyn_cli.inverse import taper
from hsyn_cli.losses import ncc
from hsyn_cli.networks import exact_inverse, load_networks
from hsyn_cli.prepare import check_overlap, foreground, on_grid
from hsyn_cli.refine import refine
from hsyn_cli.repair import repair
from hsyn_cli.scene import Scene, Subjects
from hsyn_cli.space import Grid, strided
from hsyn_cli.totals import on_target, to_image, total_fields
from hsyn_cli.transforms import read_transform

FIELD_STRIDE = 2  # SN-Net's half-way fields are brought to half the images' size
FINER_MULTIPLE = 12  # sizes divide by 4 at 3/4 of the voxel too
UNREFINED = 6  # voxels at the working grid's border, which show nothing of a brain
MARGIN_MM = 8.0  # around the fixed image's content; the fields fall to zero in it
LEAST_DETERMINANT = 0.25  # of the half-way fields, by one-sided differences
SHARPENINGS = 2  # of the total inverse

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Midspace:
    """The mean space of the pair, on the fixed grid: half-way fields (mm LPS; to the affinely aligned moving image and to
    the fixed image) and both images warped there."""

    to_moving_field: sitk.Image
    to_fixed_field: sitk.Image
    moving: sitk.Image
    fixed: sitk.Image


@dataclass(frozen=True)
class WorkingFields:
    """What the networks and the refinement made: (1, 3, Z, Y, X), mm along the axes of the working `grid`."""

    grid: Grid
    mid_to_moving: Tensor
    mid_to_fixed: Tensor
    fixed_to_moving: Tensor
    moving_to_fixed: Tensor

    def on(self, target: Grid, name: str) -> sitk.Image:
        """One of them on another grid, mm LPS."""
        return to_image(on_target(getattr(self, name), self.grid, target), target)


@dataclass(frozen=True)
class Registration:
    """A finished registration. Fields are float32 vector images, mm LPS, pull-back (see `space`).

    Attributes:
        forward_field: total, fixed grid: fixed point p -> p + d(p) in the moving image.
        inverse_field: total, moving grid.
        affine: fixed point -> moving point.
        working: the fields the totals were made of, on the working grid.
    """

    moving: sitk.Image
    fixed: sitk.Image
    affine: sitk.AffineTransform
    forward_field: sitk.Image
    inverse_field: sitk.Image
    warped: sitk.Image
    inverse_warped: sitk.Image
    working: WorkingFields
    facts: report.Facts
    outside: float = 0.0  # what warped images show where the other one ends

    @property
    def warp_field(self) -> sitk.Image:
        """ANTs' 1Warp: forward, on the fixed grid, affine left out."""
        return self.working.on(Grid.of(self.fixed), "fixed_to_moving")

    @property
    def inverse_warp_field(self) -> sitk.Image:
        """ANTs' 1InverseWarp: inverse, on the fixed grid, affine left out."""
        return self.working.on(Grid.of(self.fixed), "moving_to_fixed")

    @property
    def midspace(self) -> Midspace:
        """Computed when asked for."""
        to_moving, to_fixed = (
            self.working.on(Grid.of(self.fixed), name) for name in ("mid_to_moving", "mid_to_fixed")
        )
        chain = sitk.CompositeTransform([self.affine, _as_transform(to_moving)])
        moving = sitk.Resample(self.moving, self.fixed, chain, sitk.sitkLinear, self.outside)
        fixed = sitk.Resample(self.fixed, self.fixed, _as_transform(to_fixed), sitk.sitkLinear, self.outside)
        return Midspace(to_moving, to_fixed, moving, fixed)


def register(
    moving: ImageLike,
    fixed: ImageLike,
    *,
    preset: str = "default",
    weights: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    fixed_mask: ImageLike | None = None,
    moving_mask: ImageLike | None = None,
    initial_transform: sitk.AffineTransform | str | os.PathLike[str] | None = None,
    affine: affine_step.Kind = "affine",
    progress: Progress = lambda step, fraction: None,
) -> Registration:
    """Register `moving` to `fixed`, two scalar 3-D images of any grid, as SimpleITK has them or as paths.

    Args:
        preset: "fast" (networks and exact inverse only), "default" or "accurate" (with refinement).
        weights: "auto" (or None) goes by what the images show; "brain", "lung", or a checkpoint's name or path.
        device: "auto", "cpu", "cuda" or "mps". threads: CPU threads, None is all.
        fixed_mask, moving_mask: on their image's grid, not 0 where the image counts; of chest CTs the lungs.
        initial_transform: fixed point -> moving point. The affine step starts there.
        affine: "affine", "rigid" or "none".
        progress: called with the step's name and the share of the work done.

    Raises:
        UsageError, InputError, DeviceError, WeightsError, GeometryError: see `errors`.
    """
    presets = organs.ORGANS["brain"].presets
    if preset not in presets:
        raise UsageError(f"unknown preset {preset!r}", f"choose one of {', '.join(presets)}")
    moving, fixed = as_image(moving, "moving image"), as_image(fixed, "fixed image")
    if isinstance(initial_transform, str | os.PathLike):
        initial_transform = read_transform(Path(initial_transform)).transform
    fixed_mask, moving_mask = (
        _mask(fixed_mask, fixed, "fixed mask"),
        _mask(moving_mask, moving, "moving mask"),
    )
    where = choose_device(device)
    use_threads(threads)
    torch.manual_seed(seed)
    clock = _Clock(progress, preset)
    with clock.step("checks"):
        looks = {"moving": organs.look(moving), "fixed": organs.look(fixed)}
        shown = {role: look.shows for role, look in looks.items()}
    with clock.step("load networks"):
        sn, di, checkpoint = load_networks(organs.checkpoint_for(weights, shown), where)
        organ = organs.ORGANS[sn.config.organ]
        how = organ.presets[preset]
        shown = shown if checkpoint.name in config.CHECKPOINTS.values() else {}  # what others are for is not known
    with clock.step("affine"):
        found = (looks["moving"].lungs, looks["fixed"].lungs)
        subjects = Subjects((moving, fixed), (moving_mask, fixed_mask), found, organ)
        check_overlap(fixed, moving, initial_transform)
        start = affine_step.as_affine(initial_transform) if initial_transform else None
        aligning = (moving, fixed) if affine == "none" else subjects.to_align
        transform = affine_step.align(
            aligning[1], aligning[0], affine, seed=seed, fixed_mask=fixed_mask, moving_mask=moving_mask, start=start,
            finest_mm=2 * sn.config.spacing,
        )  # fmt: skip
    with clock.step("networks"):
        spacing = sn.config.spacing
        multiple = math.lcm(sn.config.multiple, FIELD_STRIDE * di.config.stride, FINER_MULTIPLE if how.finer < 1 else 1)
        grid = subjects.grid(transform, spacing, MARGIN_MM * spacing, multiple)
        scene = subjects.on(grid, transform, where)
        half_size = torch.Size(n // FIELD_STRIDE for n in scene.pair.shape[2:])
        with torch.no_grad():
            halves = sn(*scene.pair.chunk(2), how.depth(sn.config.levels), scene.maps, scene.counts)
            u = resize(torch.cat(halves), half_size)
        if not torch.isfinite(u).all():
            raise WeightsError(
                f"checkpoint {checkpoint.name} gives displacements that are no numbers",
                "its training went wrong; take another one",
            )
    with clock.step("refinement") as told:
        if how.finer < 1 and subjects.finer_than(how.finer * spacing):
            grid = strided(grid, how.finer)
            scene, spacing = subjects.on(grid, transform, where), grid.spacing[0]
        pair = scene.pair
        seen = torch.cat((sn.look(pair) if how.refinement else pair, scene.maps), dim=1)
        border = 0 if organ.hounsfield else UNREFINED  # a chest goes on there
        u = refine(u, seen, spacing, how.refinement, scene.counts, sn.config.symmetric, told, border)
    field_voxel = spacing * pair.shape[-1] / u.shape[-1]
    u = taper(u, round(MARGIN_MM * sn.config.spacing / field_voxel))
    with clock.step("fold repair"), torch.no_grad():
        u, folded_before = repair(u, field_voxel, LEAST_DETERMINANT)
    with clock.step("exact inverse"), torch.no_grad():
        mid_to_moving, mid_to_fixed = resampled(u, pair.shape[2:]).split(1)
        moving_to_mid = exact_inverse(di, mid_to_moving, spacing)
        fixed_to_mid = exact_inverse(di, mid_to_fixed, spacing)
    with clock.step("composition"), torch.no_grad():
        fixed_to_moving = compose(fixed_to_mid, mid_to_moving, spacing)
        moving_to_fixed = compose(moving_to_mid, mid_to_fixed, spacing)
        working = WorkingFields(grid, mid_to_moving, mid_to_fixed, fixed_to_moving, moving_to_fixed)
        totals = total_fields(
            fixed_to_moving, moving_to_fixed, grid, transform, Grid.of(fixed), Grid.of(moving), SHARPENINGS
        )
    with clock.step("checks"), torch.no_grad():
        folding, inverse_folding = totals.folding()
        errors = totals.inverse_errors(foreground(fixed), foreground(moving))
        similarity = _similarity(subjects.images[0], scene, fixed_to_moving)
    with clock.step("warping"):
        forward, inverse = totals.images()
        warped = sitk.Resample(moving, fixed, _as_transform(forward), sitk.sitkLinear, organ.outside)
        inverse_warped = sitk.Resample(fixed, moving, _as_transform(inverse), sitk.sitkLinear, organ.outside)
    facts = report.Facts(
        folding=folding,
        inverse_folding=inverse_folding,
        inverse_error_fixed=errors[0],
        inverse_error_moving=errors[1],
        similarity=similarity,
        preset=preset,
        affine=affine,
        checkpoint=checkpoint,
        device=device_name(where),
        threads=torch.get_num_threads(),
        seed=seed,
        seconds=clock.seconds,
        folded_before_repair_percent=100
        * folded_before
        / (u[:, 0].numel() if sn.config.symmetric else u[0, 0].numel()),
        shown=shown,
        warnings=tuple(_warnings(checkpoint.name, shown)),
    )
    return Registration(
        moving, fixed, transform, forward, inverse, warped, inverse_warped, working, facts, organ.outside
    )


def _warnings(checkpoint: str, shown: Mapping[str, str]) -> Iterator[str]:
    yield from organs.warnings(checkpoint, shown)
    if set(shown.values()) == {organs.BRAIN, organs.HEAD}:
        what = " and ".join(f"the {role} image looks like a {kind}" for role, kind in shown.items())
        yield f"{what}: strip the skull off both or off neither"


def _mask(mask: ImageLike | None, image: sitk.Image, what: str) -> sitk.Image | None:
    if mask is None:
        return None
    return mask if isinstance(mask, sitk.Image) else read_mask(Path(mask), image, what).image


def _similarity(moving: sitk.Image, scene: Scene, u: Tensor) -> report.Similarity:
    """Local NCC (squared, windows of 5 double voxels, mean over the working grid): at first, after the affine, at the end."""
    aligned, fixed = scene.pair.chunk(2)
    weight = None if scene.counts is None else downsample(scene.counts[1:], 2)
    images = (on_grid(moving, scene.grid).to(fixed.device), aligned, warp(aligned, u, scene.grid.spacing[0]))
    before, after_affine, after = (
        ncc(downsample(image, 2), downsample(fixed, 2), 5, weight).item() for image in images
    )
    return report.Similarity("local NCC", before, after_affine, after)


def _as_transform(displacement: sitk.Image) -> sitk.DisplacementFieldTransform:
    return sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))


# Seconds seen on two cores; only for progress.
SHARES = {"load networks": 0.1, "affine": 2.0, "networks": 2.4, "fold repair": 0.9, "exact inverse": 2.3, "composition": 1.9,
          "checks": 0.8, "warping": 0.5}  # fmt: skip
REFINEMENT_SHARE = {"fast": 0.01, "default": 5.4, "accurate": 9.5}


@dataclass
class _Clock:
    """Times the steps (a step that comes again adds up) and tells the share of the work done."""

    progress: Progress
    preset: str
    seconds: dict[str, float] = field(default_factory=dict)
    done: float = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[float], None]]:
        shares = SHARES | {"refinement": REFINEMENT_SHARE[self.preset]}
        total, share = sum(shares.values()), shares[name] if name not in self.seconds else 0.0
        self.progress(name, self.done / total)
        begun = time.monotonic()
        yield lambda part: self.progress(name, (self.done + part * share) / total)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
        self.done += share
