"""`hsyn check`: images, a pair, or a list of pairs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsyn_cli.checks.images import ImageCheck, check_image
from hsyn_cli.checks.pairs import PairCheck, Progress, check_pair
from hsyn_cli.checks.repair import Repaired, write_repaired
from hsyn_cli.cohort import lists, speed
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.devices import use_threads
from hsyn_cli.errors import BatchError, UsageError
from hsyn_cli.io.endings import TABLES, ends
from hsyn_cli.results.register_files import Inputs


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        images: those given alone. pairs: those given as such.
        repaired: the files written; None: no repair was asked for.
        listed: whether the pairs come from a table.
    """

    images: tuple[ImageCheck, ...] = ()
    pairs: tuple[PairCheck, ...] = ()
    repaired: tuple[Repaired, ...] | None = None
    listed: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings; those of a list with the name of the pair."""
        of_images = [line for image in self.images for line in image.warnings]
        of_pairs = [
            f"{pair.name}: {line}" if self.listed else line
            for pair in self.pairs
            for line in pair.warnings
        ]
        return tuple(dict.fromkeys((*of_images, *of_pairs)))

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-ready data."""
        plain: dict[str, Any] = {
            "images": [image.to_dict() for image in self.images],
            "pairs": [pair.to_dict() for pair in self.pairs],
        }
        if self.repaired is not None:
            plain["repaired"] = [vars(file) for file in self.repaired]
        return plain

    def raise_refusal(self) -> None:
        """Raise the error with which `register`, or `batch` for a list, would end."""
        found = [one.refused for one in self.images] + [one.refused for one in self.pairs]
        errors = [error for error in found if error is not None]
        if not errors:
            return
        if not self.listed:
            raise errors[0]
        names = [pair.name for pair in self.pairs if pair.refused is not None]
        text = f"{len(names)} of {len(self.pairs)} pairs cannot be registered"
        raise BatchError(text, "correct them, or leave them out", names[: lists.MOST_FAULTS])


def check_files(
    files: Sequence[Path] = (),
    pair: Inputs | None = None,
    *,
    given: Sequence[str] = (),
    options: Mapping[str, Any],
    device: str = "auto",
    threads: int | None = None,
    repaired: Path | None = None,
    force: bool = False,
    progress: Progress = lambda step, fraction: None,
) -> Check:
    """Check images, a table of pairs as `batch` takes it, or a pair.

    What `register` would refuse is told in the result, not raised.

    Args:
        files: images, or one table. given: options that the user gave, which are for pairs alone.
        options: of `register_files`. repaired: where to write images with repaired headers.

    Raises:
        UsageError: what is given does not go together. InputError: the table cannot be read. The
        errors of `write_repaired`.
    """
    _check_files(files, pair, given)
    use_threads(threads)
    table = files[0] if files and ends(files[0], TABLES) else None
    images = () if table else files
    jobs: Sequence[Job] = () if pair is None else [Job("", pair, "", dict(options))]
    if table is not None:
        jobs = lists.from_table(table, options)
    inputs = [path for job in jobs for path in (job.inputs.moving, job.inputs.fixed)]
    sources = list(dict.fromkeys((*images, *inputs)))
    written = None
    if repaired is not None:
        written = tuple(write_repaired(sources, repaired, force=force))
    count = len(images) + len(jobs)
    shares = [_share(progress, k, count) for k in range(count)]
    return Check(
        tuple(_image(path, share) for path, share in zip(images, shares, strict=False)),
        tuple(_pairs(jobs, device, shares[len(images) :])),
        written,
        table is not None,
    )


def _check_files(files: Sequence[Path], pair: Inputs | None, given: Sequence[str]) -> None:
    """Raise UsageError for files that do not go together."""
    if (pair is None) == (not files):
        raise UsageError("give FILES, or a pair by -m and -f", "see `hsyn check --help`")
    tables = [path for path in files if ends(path, TABLES)]
    if tables and len(files) > 1:
        raise UsageError(f"{tables[0]} is a table of pairs", "give it alone")
    if pair is None and not tables and given:
        raise UsageError(f"{given[0]} is for pairs", "give a pair by -m and -f, or leave it out")


def _image(path: Path, progress: Progress) -> ImageCheck:
    progress("reading", 0.0)
    return check_image(path)


def _pairs(jobs: Sequence[Job], device: str, shares: Sequence[Progress]) -> list[PairCheck]:
    import torch

    @functools.cache
    def fast() -> speed.Speed:
        return speed.measure(1, torch.get_num_threads())

    return [
        check_pair(job.inputs, job.options, fast, name=job.id, device=device, progress=share)
        for job, share in zip(jobs, shares, strict=True)
    ]


def _share(progress: Progress, done: int, count: int) -> Progress:
    head = f"{done + 1}/{count} " if count > 1 else ""
    return lambda step, part: progress(head + step, (done + part) / count)
