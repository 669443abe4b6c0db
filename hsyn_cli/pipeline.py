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
from hsyn_cli import config, report
from hsyn_cli.devices import choose_device, device_name, use_threads
from hsyn_cli.errors import GeometryError, UsageError, WeightsError
from hsyn_cli.fields import compose, downsample, resampled, resize, warp
from hsyn_cli.images import ImageLike, as_image, read_mask
from hsyn_cli.inverse import repair, taper
from hsyn_cli.losses import ncc
from hsyn_cli.networks import exact_inverse, load_networks
from hsyn_cli.prepare import check_overlap, foreground, mask_on_grid, on_grid, pair_box, shows
from hsyn_cli.refine import refine
from hsyn_cli.space import Grid, working_grid
from hsyn_cli.totals import on_target, to_image, total_fields
from hsyn_cli.transforms import read_transform
from hsyn_cli.weights import DEFAULT

FIELD_STRIDE = 2  # SN-Net's half-way fields are brought to half the images' size
MARGIN_MM = 8.0  # around the fixed image's content; the fields fall to zero in it
# Of the half-way fields, by one-sided differences; the next is tried where a total field still folds.
LEAST_DETERMINANTS = (0.4, 0.5)
SHARPENINGS = (2, 1)  # of the total inverse, likewise

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
        moving = sitk.Resample(self.moving, self.fixed, chain, sitk.sitkLinear, 0.0)
        fixed = sitk.Resample(self.fixed, self.fixed, _as_transform(to_fixed), sitk.sitkLinear, 0.0)
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
        weights: checkpoint name or path; None is the one that ships.
        device: "auto", "cpu", "cuda" or "mps". threads: CPU threads, None is all.
        fixed_mask, moving_mask: on their image's grid, not 0 where the image counts (affine and refinement).
        initial_transform: fixed point -> moving point. The affine step starts there.
        affine: "affine", "rigid" or "none".
        progress: called with the step's name and the share of the work done.

    Raises:
        UsageError, DeviceError, WeightsError, GeometryError: see `errors`.
    """
    how = config.PRESETS.get(preset)
    if how is None:
        raise UsageError(f"unknown preset {preset!r}", f"choose one of {', '.join(config.PRESETS)}")
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
    with clock.step("load networks"):
        sn, di, checkpoint = load_networks(weights, where)
    with clock.step("affine"):
        check_overlap(fixed, moving, initial_transform)
        start = affine_step.as_affine(initial_transform) if initial_transform else None
        transform = affine_step.align(
            fixed, moving, affine, seed=seed, fixed_mask=fixed_mask, moving_mask=moving_mask, start=start
        )
    with clock.step("checks"):
        shown = {"moving": shows(moving), "fixed": shows(fixed)} if checkpoint.name == DEFAULT else {}
    with clock.step("networks"):
        spacing = sn.config.spacing
        box = pair_box(fixed, moving, transform)
        multiple = math.lcm(sn.config.multiple, FIELD_STRIDE * di.config.stride)
        grid = working_grid(Grid.of(fixed), box, spacing, MARGIN_MM * spacing, multiple)
        pair = torch.cat((on_grid(moving, grid, transform), on_grid(fixed, grid))).to(where)
        if not pair[0].any():
            raise GeometryError(
                "after the alignment nothing of the moving image lies on the fixed one",
                "check the headers, the masks and the --initial-transform",
            )
        masks = None
        if fixed_mask is not None or moving_mask is not None:
            masks = torch.cat(
                (mask_on_grid(moving_mask, grid, transform), mask_on_grid(fixed_mask, grid))
            ).to(where)
        half_size = torch.Size(n // FIELD_STRIDE for n in pair.shape[2:])
        with torch.no_grad():
            u = resize(torch.cat(sn(*pair.chunk(2), how.depth(sn.config.levels))), half_size)
        if not torch.isfinite(u).all():
            raise WeightsError(
                f"checkpoint {checkpoint.name} gives displacements that are no numbers",
                "its training went wrong; take another one",
            )
    with clock.step("refinement") as told:
        seen = sn.look(pair) if how.refinement else pair
        u = refine(u, seen, spacing, how.refinement, masks, sn.config.symmetric, told)
    field_voxel = spacing * pair.shape[-1] / u.shape[-1]
    u = taper(u, round(MARGIN_MM * spacing / field_voxel))
    folded_before = None
    for least in LEAST_DETERMINANTS:
        with clock.step("fold repair"), torch.no_grad():
            u, folded = repair(u, field_voxel, least)
            folded_before = folded if folded_before is None else folded_before
        with clock.step("exact inverse"), torch.no_grad():
            mid_to_moving, mid_to_fixed = resampled(u, pair.shape[2:]).split(1)
            moving_to_mid = exact_inverse(di, mid_to_moving, spacing)
            fixed_to_mid = exact_inverse(di, mid_to_fixed, spacing)
        with clock.step("composition"), torch.no_grad():
            fixed_to_moving = compose(fixed_to_mid, mid_to_moving, spacing)
            moving_to_fixed = compose(moving_to_mid, mid_to_fixed, spacing)
            working = WorkingFields(grid, mid_to_moving, mid_to_fixed, fixed_to_moving, moving_to_fixed)
        for sharpenings in SHARPENINGS:
            with clock.step("composition"), torch.no_grad():
                totals = total_fields(
                    fixed_to_moving, moving_to_fixed, grid, transform, Grid.of(fixed), Grid.of(moving), sharpenings
                )  # fmt: skip
            with clock.step("checks"), torch.no_grad():
                folding, inverse_folding = totals.folding()
            if inverse_folding.voxels == 0:
                break
        if folding.voxels == 0 and inverse_folding.voxels == 0:
            break
    with clock.step("checks"), torch.no_grad():
        errors = totals.inverse_errors(foreground(fixed), foreground(moving))
        similarity = _similarity(moving, grid, pair, fixed_to_moving, masks)
    with clock.step("warping"):
        forward, inverse = totals.images()
        warped = sitk.Resample(moving, fixed, _as_transform(forward), sitk.sitkLinear, 0.0)
        inverse_warped = sitk.Resample(fixed, moving, _as_transform(inverse), sitk.sitkLinear, 0.0)
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
        * (folded_before or 0)
        / (u[:, 0].numel() if sn.config.symmetric else u[0, 0].numel()),
        shown=shown,
        warnings=tuple(_warnings(shown, masks is not None and preset == "fast")),
    )
    return Registration(moving, fixed, transform, forward, inverse, warped, inverse_warped, working, facts)


def _warnings(shown: Mapping[str, str], masks_idle: bool) -> Iterator[str]:
    if masks_idle:
        yield "masks steer the affine step only: the fast preset has no refinement"
    if len(set(shown.values())) == 2:
        what = " and ".join(f"the {role} image looks like a {kind}" for role, kind in shown.items())
        yield f"{what}: strip the skull off both or off neither"


def _mask(mask: ImageLike | None, image: sitk.Image, what: str) -> sitk.Image | None:
    if mask is None:
        return None
    return mask if isinstance(mask, sitk.Image) else read_mask(Path(mask), image, what).image


def _similarity(
    moving: sitk.Image, grid: Grid, pair: Tensor, u: Tensor, masks: Tensor | None
) -> report.Similarity:
    """Local NCC (squared, windows of 5 double voxels, mean over the working grid): at first, after the affine, at the end."""
    aligned, fixed = pair.chunk(2)
    weight = None if masks is None else downsample(masks[1:], 2)
    images = (on_grid(moving, grid).to(pair.device), aligned, warp(aligned, u, grid.spacing[0]))
    before, after_affine, after = (
        ncc(downsample(image, 2), downsample(fixed, 2), 5, weight).item() for image in images
    )
    return report.Similarity("local NCC", before, after_affine, after)


def _as_transform(displacement: sitk.Image) -> sitk.DisplacementFieldTransform:
    return sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))


# Seconds seen on two cores; only for progress.
SHARES = {"load networks": 0.1, "affine": 1.3, "networks": 2.6, "fold repair": 3.0, "exact inverse": 2.2, "composition": 1.4,
          "checks": 1.0, "warping": 0.7}  # fmt: skip
REFINEMENT_SHARE = {"fast": 0.01, "default": 5.5, "accurate": 11.5}


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
