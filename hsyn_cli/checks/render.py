"""What `hsyn check` found, as tables for a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hsyn_cli.checks.facts import Cost, Placed, Used
from hsyn_cli.checks.files import Check
from hsyn_cli.checks.images import OBLIQUE, ImageCheck
from hsyn_cli.checks.pairs import PairCheck
from hsyn_cli.cohort.forecast import size_of, time_of

if TYPE_CHECKING:
    from rich.console import RenderableType

Row = tuple[str, str]
WARNING, REFUSED = "warning", "refused"
STYLES = {WARNING: "yellow", REFUSED: "red"}


def render(check: Check) -> RenderableType:
    """A block of lines for each image and pair, one line for each pair of a list."""
    from rich.console import Group

    blocks: list[Sequence[Row]] = []
    for image in check.images:
        blocks.append([*_image(image), *_ends(image.warnings, image.refused)])
    for pair in check.pairs:
        blocks.append(list(_listed(pair) if check.listed else _pair(pair)))
    if check.repaired is not None:
        blocks.append(list(_repaired(check)))
    tables = [_table(rows, first=k == 0) for k, rows in enumerate(blocks)]
    return Group(*tables)


def _table(rows: Sequence[Row], first: bool) -> RenderableType:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        style = STYLES.get(name, "")
        table.add_row(Text(name, style), Text(text, style))
    return Padding(table, (0 if first else 1, 0, 0, 0))


def _ends(warnings: Sequence[str], error: Exception | None) -> Iterator[Row]:
    for line in warnings:
        yield WARNING, line
    if error is not None:
        yield REFUSED, str(error)


def _image(image: ImageCheck) -> Iterator[Row]:
    yield image.role, image.path
    if image.size:
        size, voxel = (
            " x ".join(f"{v:.4g}" for v in each) for each in (image.size, image.voxel_mm)
        )
        yield "  grid", f"{size} voxels of {voxel} mm, {image.orientation}{_turned(image)}"
        values = ""
        if image.seen is not None:
            values = f", values {image.seen.low:.4g} to {image.seen.high:.4g}"
        yield "  file", f"{image.format}{', ' * bool(image.type)}{image.type}{values}"
    if image.seen is not None:
        words = [image.seen.kind, image.seen.contrast]
        if math.isfinite(image.seen.litres):
            words.append(f"{image.seen.litres:.3g} litres of content")
        yield "  looks like", ", ".join(filter(None, words))
        if image.role == "image":
            why = f" ({image.seen.why})" if image.seen.why else ""
            yield "  checkpoint", f"{image.seen.checkpoint}{why}, for two such images"
        if image.seen.note:
            yield "  values", f"it {image.seen.note}"
    for finding in image.findings:
        if not finding.told or image.refused is not None:
            yield "  header", finding.text


def _turned(image: ImageCheck) -> str:
    angle = image.oblique_degrees
    return f", oblique by {angle:.0f} degrees" if angle >= OBLIQUE else ""


def _pair(pair: PairCheck) -> Iterator[Row]:
    for image in (pair.moving, pair.fixed):
        yield from _image(image)
    if pair.placed is not None:
        yield from _placed(pair.placed)
    if pair.used is not None:
        yield from _used(pair.used)
    if pair.cost is not None:
        yield from _cost(pair.cost)
    yield from _ends(pair.warnings, pair.refused)


def _placed(placed: Placed) -> Iterator[Row]:
    yield (
        "overlap",
        f"fields of view {placed.overlap_views:.0%}, contents {placed.overlap:.0%}; aligned "
        f"{placed.overlap_aligned:.0%}",
    )
    scales = " x ".join(f"{v:.2f}" for v in placed.scales)
    length = math.hypot(*placed.shift_mm)
    yield (
        "pose",
        f"turned by {placed.rotation_degrees:.1f} degrees, moved by {length:.1f} mm, scaled by "
        f"{scales}; the moving content has {placed.size:.2f} times the volume",
    )
    yield "contrast", f"{placed.contrast:.2f} (correlation of the aligned grey values)"


def _used(used: Used) -> Iterator[Row]:
    if used.transform != "deformable":
        yield "will use", f"the {used.transform} transform alone"
    else:
        why = f" ({used.why})" if used.why else ""
        what = used.similarity
        if used.matched:
            what += ", then ncc if hsyn can match the contrasts, or finds one"
        yield "will use", f"checkpoint {used.checkpoint}{why}; similarity {what}"
        size = " x ".join(map(str, used.size))
        unit = "" if used.unit == 1 else f"; {used.unit:.3g} mm count as 1 mm of a human"
        yield "working grid", f"{size} voxels of {used.voxel_mm:.3g} mm{unit}"
        yield "preset", used.preset
    threads = "1 thread" if used.threads == 1 else f"{used.threads} threads"
    yield "device", f"{used.device}, {threads}, networks in {used.numbers}"


def _cost(cost: Cost) -> Iterator[Row]:
    yield "time", f"about {time_of(cost.seconds)} on the CPU"
    there = "" if cost.memory_free_mb is None else f"; {size_of(cost.memory_free_mb)} are free"
    yield "memory", f"{size_of(cost.memory_mb)}{there}"
    if cost.device is not None:
        free = cost.device.free_mb
        there = "how much is free is not known"
        if free is not None:
            there = f"{size_of(free)} are free: it {'does not fit' if cost.device.left else 'fits'}"
        need = f"about {size_of(cost.device.needed_mb)} of {cost.device.device}"
        yield "device memory", f"{need}; {there}"
    yield "disk", f"{size_of(cost.disk_mb)} of outputs"


def _listed(pair: PairCheck) -> Iterator[Row]:
    words = [pair.moving.seen.kind] if pair.moving.seen is not None else []
    if pair.used is not None and pair.cost is not None:
        words += [
            f"checkpoint {pair.used.checkpoint}",
            pair.used.similarity,
            f"about {time_of(pair.cost.seconds)}",
            size_of(pair.cost.memory_mb),
        ]
    yield "pair", pair.name
    if words:
        yield "  ", ", ".join(words)
    yield from _ends(pair.warnings, pair.refused)


def _repaired(check: Check) -> Iterator[Row]:
    if not check.repaired:
        yield "repaired", "there is nothing to repair, and nothing was written"
    for file in check.repaired or ():
        yield "repaired", f"{file.path}: {', '.join(file.changes)}; the voxels keep their values"
