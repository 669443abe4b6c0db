"""What `register` will do with a pair: the same steps, as far as the alignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hsyn_cli.checks.facts import Cost, Placed, Used
from hsyn_cli.checks.images import ImageCheck, check_header, check_image, refusal, with_content
from hsyn_cli.cohort import costs
from hsyn_cli.cohort.speed import Speed
from hsyn_cli.cohort.tasks import wanted_of
from hsyn_cli.devices import free_memory_mb
from hsyn_cli.errors import HsynError
from hsyn_cli.results.register_files import Checked, Inputs, check_model, read_inputs
from hsyn_cli.space import Grid

if TYPE_CHECKING:
    from hsyn_cli.method.result import DeviceMemory
    from hsyn_cli.method.states import Aligned, Pair, Settings
    from hsyn_cli.method.working import Method

Progress = Callable[[str, float], None]
ROLES = ("moving", "fixed")
MEGABYTE = 1e6  # bytes
SAMPLES = 40  # points along each axis that measure an overlap


@dataclass(frozen=True)
class PairCheck:
    """A pair. `refused`: the error with which `register` would end; the rest is then None.

    `warnings`: those of `register`, and what it will be short of.
    """

    name: str
    moving: ImageCheck
    fixed: ImageCheck
    placed: Placed | None = None
    used: Used | None = None
    cost: Cost | None = None
    warnings: tuple[str, ...] = ()
    refused: HsynError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-ready data."""
        plain = {
            name: part if part is None or isinstance(part, (str, tuple)) else vars(part)
            for name, part in vars(self).items()
        }
        images = {role: getattr(self, role).to_dict() for role in ROLES}
        cost = self.cost and {**asdict(self.cost), "fits": self.cost.fits}
        return {**plain, **images, "cost": cost, "refused": refusal(self.refused)}


def check_pair(
    inputs: Inputs,
    options: Mapping[str, Any],
    speed: Callable[[], Speed],
    *,
    name: str = "",
    device: str = "auto",
    progress: Progress = lambda step, fraction: None,
) -> PairCheck:
    """Go with a pair as far as `register` needs to decide what it does. It raises nothing.

    Args:
        options: of `register_files`. speed: measures that of this machine.
    """
    try:
        check_model(str(options.get("model", "auto")))
        progress("reading", 0.0)
        read = read_inputs(inputs)
        return _checked(inputs, read, options, speed, name, device, progress)
    except HsynError as error:
        both = [check_image(getattr(inputs, role), f"{role} image") for role in ROLES]
        return PairCheck(name, both[0], both[1], refused=error)


def _checked(
    inputs: Inputs, read: Checked, options: Mapping[str, Any], speed: Callable[[], Speed],
    name: str, device: str, progress: Progress,
) -> PairCheck:  # fmt: skip
    from hsyn_cli.config.channels import weights_of
    from hsyn_cli.method import prepare, verdict

    masks = read.masks
    lesions = (masks["moving_lesion"], masks["fixed_lesion"])
    others = [(moving.image, fixed.image) for moving, fixed in read.others]
    start = read.initial_transform and read.initial_transform.transform
    settings = prepare.begin(
        **costs.chosen(options), device=device, seed=int(options.get("seed", 0)),
        initial_transform=start,
        channels=weights_of(options.get("channel_weights"), 1 + len(others)),
    )  # fmt: skip
    progress("looking", 0.1)
    pair = prepare.look(
        read.moving.image, read.fixed.image, masks["moving_mask"], masks["fixed_mask"], lesions,
        others,
    )  # fmt: skip
    pair = prepare.with_brains(pair, settings)
    method = prepare.choose(pair, settings)
    progress("aligning", 0.3)
    sized, method, aligned = prepare.align(pair, method, settings)
    progress("forecast", 0.85)
    content = costs.content(
        sized, method, aligned.subjects, aligned.affine, settings.transform, 1 + len(others)
    )
    there = _device(sized, method, aligned, settings)
    cost = _cost(content, inputs, options, sized, speed(), there)
    used = _used(pair, sized, method, aligned, settings, there)
    doubts = [f"{line}; the result may not be trusted" for line in verdict.foreseen(aligned)]
    notes = (*method.warnings, *aligned.notes, *doubts, *cost.warnings)
    moving, fixed = _images(inputs, read, pair)
    return PairCheck(
        name, moving, fixed, _placed(pair, sized, aligned), used, cost, (*read.warnings, *notes)
    )


def _images(inputs: Inputs, read: Checked, pair: Pair) -> tuple[ImageCheck, ImageCheck]:
    """What is told of both images. The notes on them are among the warnings of the pair."""
    moving, fixed = (
        with_content(check_header(path, f"{role} image"), scan.warnings, scan.image, view, look)
        for role, path, scan, view, look in zip(
            ROLES, (inputs.moving, inputs.fixed), (read.moving, read.fixed), pair.views, pair.looks,
            strict=True,
        )
    )  # fmt: skip
    return moving, fixed


def _placed(pair: Pair, sized: Pair, aligned: Aligned) -> Placed:
    from hsyn_cli.anatomy.contrast import Shown
    from hsyn_cli.fields.change import linear_of
    from hsyn_cli.space import affine_from, affine_parts

    grids = (Grid.of(pair.images[0]), Grid.of(pair.images[1]))
    still = Shown.of(aligned.subjects, affine_from(np.eye(3), np.zeros(3)))
    moving, fixed = (extent.content for extent in pair.extents)
    a, t = affine_parts(aligned.affine)
    points, _ = aligned.subjects.contents[1]
    linear = linear_of(a, t, (points.min(0) + points.max(0)) / 2, grids[1].dimension)
    linear = linear.scaled(sized.unit)
    return Placed(
        overlap_of(*grids),
        still.overlap,
        aligned.shown.overlap,
        moving / fixed,
        linear.scales,
        linear.rotation_degrees,
        linear.translation_mm,
        aligned.shown.correlation,
        aligned.shown.information,
    )


def overlap_of(one: Grid, other: Grid) -> float:
    """The volume that lies inside both grids, as a share of the smaller one's."""
    cells = (np.arange(SAMPLES) + 0.5) / SAMPLES
    parts = np.stack(np.meshgrid(cells, cells, cells), axis=-1).reshape(-1, 3)
    inside = other.contains(one.points(parts * np.array(one.size) - 0.5))
    volumes = [float(np.prod(grid.size) * np.prod(grid.spacing)) for grid in (one, other)]
    return float(min(1.0, inside.mean() * volumes[0] / min(volumes)))


def _device(
    sized: Pair, method: Method, aligned: Aligned, settings: Settings
) -> DeviceMemory | None:
    """What the pair needs of the memory of a device that is not the CPU."""
    from hsyn_cli.method import memory, placing

    if settings.device == placing.CPU:
        return None
    steps = memory.needed(sized, aligned.subjects, aligned.affine, method, settings)
    free = placing.free_mb(settings.device)
    return placing.foreseen(settings.device, memory.peak_mb(steps), free)


def _used(
    pair: Pair, sized: Pair, method: Method, aligned: Aligned, settings: Settings,
    device: DeviceMemory | None,
) -> Used:  # fmt: skip
    import torch

    from hsyn_cli.anatomy.organs import NONE
    from hsyn_cli.devices import convolution_type, device_name
    from hsyn_cli.method.placing import CPU, device_words
    from hsyn_cli.method.prepare import grid_for, may_match

    checkpoint = method.networks.checkpoint.name
    config = method.networks.sn.config
    grid = grid_for(aligned.subjects, aligned.affine, method)
    where = CPU if device is not None and device.left else settings.device
    numbers = str(convolution_type(where)).removeprefix("torch.")
    return Used(
        checkpoint,
        _why(pair, method, settings) if checkpoint == NONE else "",
        config.similarity,
        config.organ,
        grid.spacing[0] * sized.unit,
        grid.size,
        sized.unit,
        settings.preset,
        settings.transform,
        device_name(where) if device is None else device_words(device),
        torch.get_num_threads(),
        numbers if checkpoint != NONE else "float32",
        may_match(method, settings),
    )


def _why(pair: Pair, method: Method, settings: Settings) -> str:
    """Why no checkpoint is used."""
    from hsyn_cli.anatomy import organs
    from hsyn_cli.method.prepare import NETWORKS_FOR
    from hsyn_cli.method.states import AUTO

    if method.networks.sn.contrasts_differ:
        return f"of {settings.weights} the features alone, as the images differ in contrast"
    if settings.weights not in (None, AUTO):
        return f"--model {settings.weights}"
    if settings.similarity not in (AUTO, NETWORKS_FOR):
        return f"--similarity {settings.similarity}"
    return organs.why_none(pair.kinds, pair.parts) or "the images differ in contrast"


def _cost(
    content: costs.Content, inputs: Inputs, options: Mapping[str, Any], pair: Pair, speed: Speed,
    device: DeviceMemory | None,
) -> Cost:  # fmt: skip
    import torch

    wanted, _ = wanted_of(Path(), inputs, options, {})
    voxels = (Grid.of(pair.images[0]).voxel, Grid.of(pair.images[1]).voxel)
    seconds = content.seconds + costs.START
    if device is not None and device.device.startswith("cuda"):
        content = replace(content, libraries=costs.CUDA)
    memory = content.memory + costs.SEVERAL_THREADS * (torch.get_num_threads() > 1)
    return Cost(
        seconds * speed.now,
        seconds * speed.alone,
        memory / MEGABYTE,
        free_memory_mb(),
        content.disk(wanted, voxels) / MEGABYTE,
        device,
    )
