"""From two images to an aligned pair and the method for it. Ours; the paper starts thereafter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import starmap

import SimpleITK as sitk
import torch

from hsyn_cli.anatomy import affine as affine_step
from hsyn_cli.anatomy import contrast, organs
from hsyn_cli.anatomy.placement import place
from hsyn_cli.anatomy.poses import Kind, Search
from hsyn_cli.anatomy.scene import ROLES, Subjects, prepare_subjects
from hsyn_cli.anatomy.size import scaled_affine
from hsyn_cli.anatomy.tensors import Scene
from hsyn_cli.anatomy.view import view_of
from hsyn_cli.config import presets
from hsyn_cli.devices import choose_device
from hsyn_cli.errors import UsageError
from hsyn_cli.io.images import ImageLike, as_image, as_mask
from hsyn_cli.io.transforms import TransformLike, as_affine_transform
from hsyn_cli.method import brain_finder
from hsyn_cli.method import similarity as similarities
from hsyn_cli.method.feature_net import FeatureNet
from hsyn_cli.method.inference import FIELD_STRIDE
from hsyn_cli.method.networks import load_networks
from hsyn_cli.method.states import (
    AUTO,
    Aligned,
    Head,
    Other,
    Pair,
    Settings,
    Transform,
    check_head,
    check_search,
    check_transform,
)
from hsyn_cli.method.working import Method
from hsyn_cli.space import Grid
from hsyn_cli.space.planes import check_alike

CPU = torch.device("cpu")
NETWORKS_FOR = "ncc"  # the similarity that the shipped networks were trained with
OTHER_CONTRAST = "mind"  # the similarity of images that differ in contrast
FINER_MULTIPLE = 12  # sizes then divide by 4 at 3/4 of the voxel size, too
LED = (
    "the images differ in contrast: force steps align them, with the features of checkpoint {} "
    "(SHA-256 {}), whose other networks do not run"
)


NO_HEADS = "--head brain changes nothing: there is no pair of heads, or of a head and a brain"
BY_BRAINS = "whole heads are registered by their brains; --head all takes all of the heads"


def begin(
    preset: str,
    weights: str | None,
    device: str,
    seed: int,
    initial_transform: TransformLike | None,
    affine: Kind,
    smoothness: float,
    similarity: str = AUTO,
    transform: Transform = "deformable",
    search: Search = "near",
    channels: tuple[float, ...] = (1.0,),
    *,
    even: bool = False,
    head: Head = "auto",
) -> Settings:
    """Check the settings, then set up the device and the seed. `channels`: see `weights_of`."""
    presets.find(preset)
    presets.check_smoothness(smoothness)
    affine_step.check_kind(affine)
    check_transform(transform, affine)
    check_search(search, transform)
    check_head(head)
    if similarity != AUTO:
        similarities.check(similarity)
    affine = affine if transform == "deformable" else transform
    start = None if initial_transform is None else as_affine_transform(initial_transform)
    torch.manual_seed(seed)
    where = choose_device(device)
    return Settings(
        preset, weights, affine, start, where, seed, smoothness, similarity, transform, search,
        channels, even, head,
    )  # fmt: skip


def look(
    moving: ImageLike,
    fixed: ImageLike,
    moving_mask: ImageLike | None,
    fixed_mask: ImageLike | None,
    lesions: tuple[ImageLike | None, ImageLike | None] = (None, None),
    others: Iterable[tuple[ImageLike, ImageLike]] = (),
) -> Pair:
    """Load the images and masks, and recognise what each image shows.

    `others`: further channels, moving first.
    """
    images = (as_image(moving, "moving image"), as_image(fixed, "fixed image"))
    check_alike(*images)
    beside = tuple(starmap(_other, others))
    for other in beside:
        for channel, image in zip(other.images, images, strict=True):
            check_alike(channel, image)
    masks = (
        None if moving_mask is None else as_mask(moving_mask, images[0], "moving mask"),
        None if fixed_mask is None else as_mask(fixed_mask, images[1], "fixed mask"),
    )
    views = (view_of(images[0]), view_of(images[1]))
    moving, fixed = (
        None if lesion is None else as_mask(lesion, image, f"{role} lesion")
        for role, lesion, image in zip(ROLES, lesions, images, strict=True)
    )
    looks = (organs.look(views[0].image), organs.look(views[1].image))
    return Pair(images, views, masks, looks, lesions=(moving, fixed), others=beside)


def _other(moving: ImageLike, fixed: ImageLike) -> Other:
    """A further channel."""
    images = (
        as_image(moving, "moving image of a further channel"),
        as_image(fixed, "fixed image of a further channel"),
    )
    return Other(images, (view_of(images[0]), view_of(images[1])))


def with_brains(pair: Pair, settings: Settings) -> Pair:
    """The pair with the brains of whole heads as what is registered, if the settings say so.

    Unasked, that happens where heads may be taken to stand upright, no mask says what counts, and
    the nets are not the user's own.
    """
    asked = settings.head == "brain"
    upright = settings.search == "near" and settings.start is None
    free = upright and all(mask is None for mask in pair.masks) and of_hsyn(settings.weights)
    if settings.head == "all" or not (asked or free):
        return pair
    views = (pair.views[0].image, pair.views[1].image)
    return replace(pair, looks=brain_finder.with_brains(views, pair.looks, must=asked))


def of_hsyn(weights: str | None) -> bool:
    """Whether the nets are hsyn's own, or none."""
    return weights in (None, AUTO, organs.NONE, *organs.names(), *organs.shipped().values())


def choose(pair: Pair, settings: Settings, features: FeatureNet | None = None) -> Method:
    """The networks that the user names, or those for what the images show.

    `features`: of images that differ in contrast; the force steps then align them, too.
    """
    views = pair.parts
    name = organs.checkpoint_for(settings.weights, pair.kinds, views)
    if settings.weights in (None, AUTO) and settings.similarity not in (AUTO, NETWORKS_FOR):
        name = organs.NONE
    if name != organs.NONE and Grid.of(views[1]).normal is not None:
        raise UsageError(f"checkpoint {name} is for volumes, not for slices", "leave out --model")
    networks = load_networks(name, CPU)  # `Method.on` brings them to a device
    if name != organs.NONE and not any(level.repeats for level in networks.sn.config.levels):
        text = f"checkpoint {name} has no net that registers"
        raise UsageError(text, "leave out --model; brain-finder finds brains by itself")
    if features is not None:
        networks.sn.follow(features)
    config, used = networks.sn.config, networks.checkpoint.name
    if settings.similarity not in (AUTO, config.similarity):
        if used != organs.NONE:
            text = f"checkpoint {used} was trained for {config.similarity}"
            raise UsageError(text, "leave out --similarity, or give --model none")
        config = replace(config, similarity=settings.similarity)
    networks.sn.config = replace(config, spacing=pair.voxel or config.spacing)
    networks.sn.channels = settings.channels
    method = Method.of(networks, settings.preset, settings.smoothness)
    if settings.transform != "deformable":  # an affine map has an exact inverse
        method = replace(method, preset=replace(method.preset, fit=0))
    kinds = pair.kinds if used in (organs.NONE, *organs.shipped().values()) else {}
    idle = settings.head == "brain" and not pair.of_found_brains
    found = settings.head == AUTO and pair.of_found_brains
    notes = (*pair.notes, *([NO_HEADS] if idle else []), *([BY_BRAINS] if found else []))
    remarks = () if pair.of_found_brains else organs.remarks(kinds)
    warnings = (*notes, *organs.warnings(used, kinds), *remarks)
    return replace(method, kinds=kinds, warnings=warnings)


def align(
    pair: Pair, method: Method, settings: Settings, alike: bool | None = None
) -> tuple[Pair, Method, Aligned]:
    """Affine alignment of the parts of both images that the organ chooses.

    If they turn out to differ in contrast, another `Method` aligns them anew and goes on.

    `alike`: whether the images have one contrast; None: not known yet.
    """
    trained = organs.shipped().values()  # other checkpoints count in the mm of their training
    known = method.networks.checkpoint.name in (organs.NONE, *trained)
    sized = pair.sized(method.organ) if known else pair
    if sized.voxel:
        method.networks.sn.config = replace(method.networks.sn.config, spacing=sized.voxel)
    percentile = method.networks.sn.config.inputs.percentile
    views = (sized.views[0].image, sized.views[1].image)
    beside = [(other.views[0].image, other.views[1].image) for other in sized.others]
    subjects = prepare_subjects(
        views,
        sized.masks,
        sized.looks,
        method.organ,
        percentile,
        sized.lesions,
        beside,
        method.spacing,
    )
    start = settings.start and scaled_affine(settings.start, 1 / sized.unit)
    finest = 2 if settings.transform == "deformable" else 1
    affine, note = place(
        subjects, settings.affine, start, seed=settings.seed, finest_mm=finest * method.spacing,
        same_contrast=method.similarity.same_contrast, search=settings.search, unit=sized.unit,
    )  # fmt: skip
    shown = contrast.Shown.of(subjects, affine)
    features, used = method.networks.sn.features, method.networks.checkpoint
    open_to_all = settings.weights in (None, AUTO, organs.NONE) or features is not None
    free = settings.similarity == AUTO and open_to_all
    if alike is None:
        others = zip(subjects.channels[1:], settings.channels[1:], strict=True)
        rest = [contrast.Shown.of(channel, affine) for channel, weight in others if weight]
        brains = free and organs.of_brains(pair.kinds)
        alike = all(one.same_contrast(brains) for one in (shown, *rest))
    notes = tuple(filter(None, (note,)))
    if free and not alike:
        chosen = replace(settings, weights=organs.NONE, similarity=OTHER_CONTRAST)
        subjects = replace(subjects, alike=True, even=settings.even)
        first = sized, method, Aligned(subjects, affine, notes, shown)
        pair, method, aligned = align(pair, choose(pair, chosen, features), chosen, alike)
        if organs.of_brains(pair.kinds) or len(settings.channels) > 1:
            aligned = replace(aligned, first=first)
        if features is not None and settings.transform == "deformable":
            note = LED.format(used.name, used.sha256[:12])
            aligned = replace(aligned, notes=(*aligned.notes, note))
        return pair, method, aligned
    subjects = replace(subjects, alike=alike, even=settings.even)
    return sized, method, Aligned(subjects, affine, notes, shown)


def may_match(method: Method, settings: Settings) -> bool:
    """Whether the images differ in contrast so that `matching` may give them one."""
    free = settings.similarity == AUTO and method.networks.checkpoint.name == organs.NONE
    deforms = settings.transform == "deformable"
    return free and deforms and not method.similarity.same_contrast


def grid_for(subjects: Subjects, affine: sitk.AffineTransform, method: Method) -> Grid:
    """The working grid of a pair that `affine` aligns, fixed point -> moving point."""
    sn, di, preset = method.networks.sn, method.networks.di, method.preset
    finer = FINER_MULTIPLE if preset.finer < 1 else 1
    multiple = math.lcm(sn.config.multiple, FIELD_STRIDE * di.config.stride, finer)
    spacing = method.spacing
    return subjects.grid(affine, spacing, preset.margin * spacing, multiple)


def finer_for(subjects: Subjects, method: Method) -> float:
    """The voxel of the refinement, in working voxels; below 1 where the images are fine enough."""
    finer = method.preset.finer
    return finer if finer < 1 and subjects.finer_than(finer * method.spacing) else 1.0


def scene_of(aligned: Aligned, method: Method, device: torch.device) -> Scene:
    """Both images on their working grid."""
    grid = grid_for(aligned.subjects, aligned.affine, method)
    return aligned.subjects.on(grid, aligned.affine, device)
