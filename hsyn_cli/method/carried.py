"""A prepared pair as one file, to register and judge it on machines without SimpleITK.

The file holds what `register` has after the affine step: both images on their working grid, the
affine, the grids and contents of the images, and label maps to judge by.
"""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hsyn_cli.anatomy.tensors import Scene
from hsyn_cli.errors import InputError
from hsyn_cli.fields.grids import affine_displacement
from hsyn_cli.fields.mutual import Contents
from hsyn_cli.fields.totals import Affine, Settled, Totals, total_fields
from hsyn_cli.io import atomic
from hsyn_cli.method import inference
from hsyn_cli.method.working import Method
from hsyn_cli.space import Grid

STEPS = 4095  # between 0 and 1; finer differences of grey values are lost
TENSORS = ("pair", "maps", "counts", "others", "shows")  # of a scene
Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Carried:
    """A prepared pair.

    Attributes:
        affine: fixed point -> moving point.
        moving, fixed: the grids of the images.
        contents: (Z, Y, X) masks on `fixed` and on `moving`.
        moving_labels, fixed_labels: (Z, Y, X) ids on these grids.
        ids: those that count.
        seconds: of what was done before, on another machine.
    """

    name: str
    scene: Scene
    affine: Affine
    moving: Grid
    fixed: Grid
    contents: Contents
    moving_labels: Labels
    fixed_labels: Labels
    ids: tuple[int, ...]
    seconds: Mapping[str, float]


def save_pair(pair: Carried, path: Path) -> None:
    """Write a pair, compressed, whole or not at all. Raises OutputError."""
    scene = pair.scene
    grids = {"working": scene.grid, "moving": pair.moving, "fixed": pair.fixed}
    about = {
        "name": pair.name, "ids": pair.ids, "alike": scene.alike, "blur": scene.blur,
        "fine": scene.fine and [(side.start, side.stop) for side in scene.fine],
        "seconds": dict(pair.seconds), "affine": [part.tolist() for part in pair.affine],
        "grids": {name: asdict(grid) for name, grid in grids.items()},
    }  # fmt: skip
    arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for name in TENSORS:
        if (tensor := getattr(scene, name)) is not None:
            arrays[name] = np.rint(tensor.cpu().numpy() * STEPS).astype(np.uint16)
    arrays |= {f"content{k}": np.packbits(mask) for k, mask in enumerate(pair.contents)}
    arrays |= {"moving_labels": pair.moving_labels, "fixed_labels": pair.fixed_labels}
    content = io.BytesIO()
    np.savez(content, **arrays)
    atomic.write_bytes(path, lzma.compress(content.getbuffer(), preset=2))


def load_pair(path: Path, device: torch.device) -> Carried:
    """Read a pair; its scene lies on `device`. Raises InputError."""
    try:
        arrays = np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False)
        about = json.loads(arrays["about"].tobytes())
        grids = {name: _grid(values) for name, values in about["grids"].items()}
        tensors = {name: _tensor(arrays, name, device) for name in TENSORS}
        a, t = (np.array(part) for part in about["affine"])
        fixed, moving = (
            _mask(arrays[f"content{k}"], grids[name]) for k, name in enumerate(("fixed", "moving"))
        )
        fine = about["fine"] and tuple(slice(*ends) for ends in about["fine"])
        scene = Scene(
            grids["working"], alike=about["alike"], blur=tuple(about["blur"]), fine=fine, **tensors
        )
        return Carried(
            about["name"], scene,
            (a, t), grids["moving"], grids["fixed"], (fixed, moving), arrays["moving_labels"],
            arrays["fixed_labels"], tuple(about["ids"]), about["seconds"],
        )  # fmt: skip
    except (OSError, EOFError, lzma.LZMAError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"pair {path} cannot be read: {error!r}", "pack it again") from error


def _grid(values: dict[str, Any]) -> Grid:
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Grid(**plain)


def _tensor(arrays: Mapping[str, Any], name: str, device: torch.device) -> Any:
    if name not in arrays:
        return None
    return torch.from_numpy(arrays[name].astype(np.float32) / STEPS).to(device)


def _mask(bits: NDArray[np.uint8], grid: Grid) -> NDArray[np.bool_]:
    size = grid.size[::-1]
    return np.unpackbits(bits, count=int(np.prod(size))).reshape(size).astype(bool)


Part = Callable[[str], AbstractContextManager[object]]


@torch.no_grad()
def register_carried(
    pair: Carried, method: Method, part: Part = lambda name: nullcontext()
) -> tuple[Totals, Settled]:
    """The total fields of a pair, settled, as `register` makes them; each step inside a `part`."""
    with part("half-way fields"):
        halves = inference.halfway_fields(pair.scene, method)
    with part("refinement"):
        halves = inference.refine(halves, method)
    with part("fold repair"):
        halves = inference.repair(halves, method)
    with part("exact inverse"):
        inverted = inference.invert(halves, method)
        del halves
    with part("composition"):
        whole = inference.join(inverted)
        del inverted
    with part("total fields"):
        totals = total_fields(
            whole.fixed_to_moving, whole.moving_to_fixed, whole.grid, pair.affine, pair.fixed,
            pair.moving,
        )  # fmt: skip
        del whole
    with part("fit"):
        return totals, totals.settle(pair.contents, method.preset.fit)


def dices(pair: Carried, totals: Totals) -> dict[int, float]:
    """Dice of each id that the fixed image has; the forward field warps the moving labels.

    Nearest neighbour, 0 outside the moving image.
    """
    device, grid = totals.forward.device, pair.moving
    points = affine_displacement(pair.fixed, np.eye(3), np.zeros(3), device, absolute=True)
    points = (points + totals.forward)[0].flatten(1).double()
    to_index = torch.from_numpy(np.linalg.inv(grid.index_to_point)).to(device)
    index = to_index @ (points - torch.tensor(grid.origin, device=device)[:, None])
    index = index.add_(0.5).floor_().long()
    size = torch.tensor(grid.size, device=device)[:, None]
    inside = ((index >= 0) & (index < size)).all(0)
    x, y, z = torch.minimum(index.clamp_min(0), size - 1)
    moving, fixed = (
        torch.from_numpy(v.astype(np.int64)).to(device).flatten()
        for v in (pair.moving_labels, pair.fixed_labels)
    )
    warped = moving[(z * grid.size[1] + y) * grid.size[0] + x] * inside
    count = int(torch.maximum(warped.max(), fixed.max())) + 1
    both = torch.bincount(fixed[warped == fixed], minlength=count)
    total = torch.bincount(warped, minlength=count) + torch.bincount(fixed, minlength=count)
    present = set(fixed.unique().tolist())
    return {k: float(2 * both[k] / total[k]) for k in pair.ids if k in present}
