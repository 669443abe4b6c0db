"""The paper's inference, top to bottom.

look -> align -> half-way fields -> refine -> repair -> invert -> join -> compose: each step is a
function from one small frozen state to the next; `inference` has those on tensors alone.
SN-Net's half-way fields, DI-Net and composition are the paper's (Sha et al., MICCAI 2024).
Refinement, repair and exact inversion are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import SimpleITK as sitk
import torch

from hsyn_cli.anatomy.contrast import look_mm
from hsyn_cli.anatomy.intensity import foreground
from hsyn_cli.anatomy.organs import Images
from hsyn_cli.anatomy.poses import Kind, Search
from hsyn_cli.anatomy.size import scaled_affine
from hsyn_cli.config import presets
from hsyn_cli.config.channels import channels_of, listed, weights_of
from hsyn_cli.devices import use_threads
from hsyn_cli.fields.change import measure_change
from hsyn_cli.fields.images import as_transform, total_images
from hsyn_cli.fields.totals import total_fields
from hsyn_cli.io.images import ImageLike
from hsyn_cli.io.transforms import TransformLike
from hsyn_cli.method import inference, prepare
from hsyn_cli.method.clock import Clock, Progress
from hsyn_cli.method.matching import ALIKE
from hsyn_cli.method.measures import measured, tell
from hsyn_cli.method.one_contrast import give_one_contrast
from hsyn_cli.method.placing import Tell, placed
from hsyn_cli.method.result import Facts, Registration
from hsyn_cli.method.states import (
    AUTO,
    Aligned,
    Composed,
    Head,
    Joined,
    Pair,
    Settings,
    Transform,
)
from hsyn_cli.method.working import Halves, Method, WorkingFields
from hsyn_cli.space import Grid, affine_parts, strided
from hsyn_cli.space.planes import lowered, lowered_transform

Ready = tuple[Pair, Method, Aligned]


def register(
    moving: ImageLike | Sequence[ImageLike],
    fixed: ImageLike | Sequence[ImageLike],
    *,
    channel_weights: Sequence[float] | None = None,
    preset: str = "default",
    weights: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    fixed_mask: ImageLike | None = None,
    moving_mask: ImageLike | None = None,
    fixed_lesion: ImageLike | None = None,
    moving_lesion: ImageLike | None = None,
    initial_transform: TransformLike | None = None,
    affine: Kind = "affine",
    transform: Transform = "deformable",
    similarity: str = AUTO,
    search: Search = "near",
    smoothness: float = 1.0,
    even: bool = False,
    head: Head = "auto",
    progress: Progress = lambda step, fraction: None,
    told: Tell = lambda line: None,
) -> Registration:
    """Register `moving` to `fixed`, two scalar images of any grid, in memory or as paths.

    Both are volumes, single slices or 2-D images, and so is what comes back. Several channels share
    one field; the affine step, the networks and the measures go by the first.

    Args:
        channel_weights: how much each channel pulls; None: all the same.
        preset: "fast" (networks and exact inverse), "default" or "accurate" (with refinement).
        weights: "auto" (or None) goes by what the images show. Else an organ ("brain", "lung"),
            "none" for no networks, or a checkpoint's name or path.
        device: "auto", "cpu", "cuda" or "mps". threads: CPU threads; None is all.
        fixed_mask, moving_mask: on their image's grid, not 0 where it counts; of chests, the lungs.
        fixed_lesion, moving_lesion: not 0 where an image shows what the other cannot have.
        initial_transform: fixed point -> moving point. The affine step starts from it.
        affine: "affine", "rigid", "translation" or "none".
        transform: "deformable", or a kind of `affine`, which stops after that alignment.
        similarity: "auto" goes by the contrasts. Else the name of one, see `method.similarity`.
        search: "full" also finds images that are turned by up to 180 degrees.
        smoothness: factor of the lengths over which the fields are smooth.
        even: sample both images so that their noise and blur do not depend on where their voxels
            lie. Small changes between scans of one person come out with less error, and what is as
            fine as a voxel counts for less.
        head: what is registered of whole heads: "all", or the "brain", which hsyn finds; "auto":
            the brain where hsyn is sure of it, unless `search` is "full", or there are masks, an
            initial transform or a checkpoint of the user's own.
        told: gets lines on the memory of a device that is not the CPU; see `placing`.

    Raises:
        UsageError, InputError, DeviceError, WeightsError, GeometryError: see `errors`.
    """
    use_threads(threads)
    channels = channels_of(listed(moving), listed(fixed))
    settings = prepare.begin(
        preset, weights, device, seed, initial_transform, affine, smoothness, similarity, transform,
        search, weights_of(channel_weights, len(channels)), even=even, head=head,
    )  # fmt: skip
    clock = Clock(progress, presets.find(preset).work)
    with clock.step("checks"):
        lesions = (moving_lesion, fixed_lesion)
        pair = prepare.look(*channels[0], moving_mask, fixed_mask, lesions, channels[1:])
        pair = prepare.with_brains(pair, settings)
    with clock.step("load networks"):
        method = prepare.choose(pair, settings)
    with clock.step("affine"):
        ready = prepare.align(pair, method, settings)
    return placed(partial(follow, ready, clock), *ready, settings, clock, told)


def follow(ready: Ready, clock: Clock, method: Method, settings: Settings) -> Registration:
    """All that follows the alignment, on the device of the settings, where the networks are."""
    pair, _, aligned = ready
    with clock.step("contrast"), torch.no_grad():
        given = give_one_contrast(pair, method, aligned, settings)
    if given is None:
        assert aligned.first is not None
        pair, method, aligned = aligned.first
        method = method.on(settings.device)
        aligned = replace(aligned, notes=(*aligned.notes, ALIKE))
    else:
        aligned, method = given
    deformed = deform if settings.transform == "deformable" else leave
    joined, folded = deformed(aligned, method, settings.device, clock)
    with clock.step("total fields"), torch.no_grad():
        composed = compose(joined, aligned, pair, method)
    facts = tell(aligned, folded, joined, composed, method, settings, pair)
    with clock.step("warping"):
        return warp(pair, aligned, joined, composed, method, facts)


def deform(
    aligned: Aligned, method: Method, device: torch.device, clock: Clock
) -> tuple[Joined, float]:
    """Half-way fields, their inverses and both whole maps; and what folded, see `Halves`."""
    with clock.step("networks"), torch.no_grad():
        halves = inference.halfway_fields(prepare.scene_of(aligned, method, device), method)
    with clock.step("refinement") as share_done:
        halves = inference.refine(finer(halves, aligned, method), method, share_done)
    with clock.step("fold repair"), torch.no_grad():
        halves = inference.repair(halves, method)
    with clock.step("exact inverse"), torch.no_grad():
        inverted = inference.invert(halves, method)
    folded = halves.folded
    del halves
    with clock.step("composition"), torch.no_grad():
        working = inference.join(inverted)
        return measured(aligned.subjects, working, inverted.scene, method), folded


def leave(
    aligned: Aligned, method: Method, device: torch.device, clock: Clock
) -> tuple[Joined, float]:
    """No displacement beside the affine."""
    with clock.step("composition"), torch.no_grad():
        mm = look_mm(Grid.of(aligned.subjects.views[1]))
        grid = aligned.subjects.grid(aligned.affine, mm, mm, 2, room=0)
        scene = aligned.subjects.on(grid, aligned.affine, device)
        none = scene.pair.new_zeros(1, 3, *scene.pair.shape[2:])
        working = WorkingFields(grid, none, none, none, none)
        return measured(aligned.subjects, working, scene, method), 0.0


def finer(halves: Halves, aligned: Aligned, method: Method) -> Halves:
    """The fields on the scene that the refinement sees: finer, if the images are fine enough."""
    if (voxel := prepare.finer_for(aligned.subjects, method)) == 1:
        return halves
    grid = strided(halves.scene.grid, voxel)
    return Halves(aligned.subjects.on(grid, aligned.affine, halves.u.device), halves.u)


def compose(joined: Joined, aligned: Aligned, pair: Pair, method: Method) -> Composed:
    """Compose the whole maps and the affine to the total fields on the grids of the images."""
    moving, fixed = pair.grids
    whole = joined.working
    totals = total_fields(
        whole.fixed_to_moving, whole.moving_to_fixed, whole.grid, affine_parts(aligned.affine),
        fixed, moving,
    )  # fmt: skip
    views = (pair.views[0].image, pair.views[1].image)
    of_moving, of_fixed = (
        foreground(view, shown.grey.hounsfield)
        for view, shown in zip(views, pair.looks, strict=True)
    )
    core = None
    if pair.of_found_brains:
        core = foreground(pair.parts[1]), foreground(pair.parts[0])
    settled = totals.settle((of_fixed, of_moving), method.preset.fit, core)
    return Composed(totals, settled, *measure_change(totals, of_fixed))


def warp(
    pair: Pair, aligned: Aligned, joined: Joined, composed: Composed, method: Method, facts: Facts
) -> Registration:
    """Warp each image onto the other by the total fields, all in the geometry of the images."""
    forward, inverse = total_images(composed.totals, pair.unit)
    ways = (as_transform(forward), as_transform(inverse))
    moving, fixed = pair.images

    def both(one: sitk.Image, other: sitk.Image, dark: tuple[float, float]) -> Images:
        return _moved(one, fixed, ways[0], dark[0]), _moved(other, moving, ways[1], dark[1])

    outside = pair.outside(method.organ)
    warped, back = both(moving, fixed, outside)
    affine = scaled_affine(aligned.affine, pair.unit)
    return Registration(
        moving=lowered(moving),
        fixed=lowered(fixed),
        affine=lowered_transform(affine) if Grid.of(fixed).dimension == 2 else affine,
        forward_field=lowered(forward),
        inverse_field=lowered(inverse),
        warped=warped,
        inverse_warped=back,
        working=joined.working.scaled(pair.unit).on_cpu(),
        facts=facts.scaled(pair.unit),
        outside=outside[0],
        inverse_outside=outside[1],
        others=tuple(both(*other.images, other.outside(method.organ)) for other in pair.others),
    )


def _moved(image: sitk.Image, like: sitk.Image, way: sitk.Transform, dark: float) -> sitk.Image:
    """`image` on the grid of `like`, `dark` outside it."""
    return lowered(Grid.of(like).stamp(sitk.Resample(image, like, way, sitk.sitkLinear, dark)))
