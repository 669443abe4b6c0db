"""A pair of files to an output folder: read, check, register, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hsyn_cli import plugins
from hsyn_cli.devices import peak_memory_mb
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io import atomic, endings
from hsyn_cli.results.report import Report, Source, assemble
from hsyn_cli.results.run_folder import Wanted, needed_bytes, targets
from hsyn_cli.results.starts import Starts

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.io.images import Scan
    from hsyn_cli.io.transforms import Transform
    from hsyn_cli.tools.chain import Source as ChainSource

BEFORE_WRITING = 0.9  # of the progress bar

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Inputs:
    """The files of a registration. `others`: further channels, moving first."""

    moving: Path
    fixed: Path
    moving_labels: Path | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_lesion: Path | None = None
    moving_lesion: Path | None = None
    initial_transform: Path | None = None
    others: tuple[tuple[Path, Path], ...] = ()

    @property
    def masked(self) -> bool:
        """Whether a mask says what counts."""
        return self.fixed_mask is not None or self.moving_mask is not None

    @property
    def given(self) -> dict[str, Path]:
        """{role: path} of the files given; further channels are moving_2, fixed_2 and so on."""
        named = {name: path for name, path in vars(self).items() if name != "others"}
        for k, pair in enumerate(self.others, 2):
            named |= {
                f"{role}_{k}": path for role, path in zip(("moving", "fixed"), pair, strict=True)
            }
        return {name: path for name, path in named.items() if path is not None}


@dataclass(frozen=True)
class Checked:
    """The files of a registration after reading, each with its own checks passed."""

    moving: Scan
    fixed: Scan
    moving_labels: Scan | None
    fixed_mask: Scan | None
    moving_mask: Scan | None
    fixed_lesion: Scan | None
    moving_lesion: Scan | None
    initial_transform: Transform | None
    others: tuple[tuple[Scan, Scan], ...] = ()
    starts: tuple[ChainSource, ...] = ()

    @property
    def sources(self) -> dict[str, Any]:
        """{role: what was read}, as `Inputs.given` and `Starts.paths`."""
        several = ("others", "starts")
        found = {name: read for name, read in vars(self).items() if name not in several}
        for k, (moving, fixed) in enumerate(self.others, 2):
            found |= {f"moving_{k}": moving, f"fixed_{k}": fixed}
        for k, start in enumerate(self.starts, 1):
            found[f"initial_transform{f'_{k}' * (k > 1)}"] = start
        return found

    def named(self, given: Mapping[str, Path]) -> dict[str, Source]:
        """{role: its source} of the files given, for the report, and of an identity to start."""
        named, start = {}, self.initial_transform
        for name, path in given.items():
            source = self.sources[name]
            inverse = getattr(source, "inverse", False)
            named[name] = Source(str(path.absolute()), source.sha256, inverse)
        if start is not None and "initial_transform" not in named:
            named["initial_transform"] = Source(str(start.path), start.sha256)
        return named

    @property
    def channels(self) -> tuple[list[sitk.Image], list[sitk.Image]]:
        """All channels, moving first."""
        pairs = [(self.moving, self.fixed), *self.others]
        return [moving.image for moving, _ in pairs], [fixed.image for _, fixed in pairs]

    @property
    def voxels(self) -> tuple[int, int]:
        """How many each image has, moving first."""
        return self.moving.image.GetNumberOfPixels(), self.fixed.image.GetNumberOfPixels()

    @property
    def masks(self) -> dict[str, Any]:
        """The masks, as arguments of `method.register`."""
        names = ("fixed_mask", "moving_mask", "fixed_lesion", "moving_lesion")
        given = {name: getattr(self, name) for name in names}
        return {name: scan and scan.image for name, scan in given.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about their headers."""
        return tuple(
            line for read in self.sources.values() for line in getattr(read, "warnings", ())
        )


def register_files(
    inputs: Inputs,
    wanted: Wanted,
    *,
    channel_weights: Sequence[float] | None = None,
    preset: str = "default",
    model: str = "auto",
    affine: Literal["affine", "rigid", "none"] = "affine",
    transform: Literal["translation", "rigid", "affine", "deformable"] = "deformable",
    similarity: str = "auto",
    search: Literal["near", "full"] = "near",
    head: Literal["auto", "all", "brain"] = "auto",
    smoothness: float = 1.0,
    even: bool = False,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    starts: Starts | None = None,
    dimension: int | None = None,
    force: bool = False,
    progress: Progress = lambda step, fraction: None,
    shown: Callable[[sitk.Image, sitk.Image], None] = lambda fixed, warped: None,
    told: Callable[[str], None] = lambda line: None,
) -> Report:
    """Read, check, register and write. All files appear together, or none.

    `starts` take the place of the inputs' initial transform. The images must have the `dimension`.
    `shown` gets the fixed and the warped image, `told` lines on a device. Raises all `errors` but
    FoldingError, FailedError.
    """
    start = time.monotonic()
    check_model(model)
    check_folder(wanted.folder)
    check_prefixes(wanted)
    paths = targets(wanted)
    given = {**inputs.given, **(starts.paths if starts else {})}
    with atomic.claim(paths.values(), force=force, inputs=given.values()) as staging:
        progress("reading", 0.0)
        read = read_inputs(inputs, starts, dimension)
        atomic.check_space(wanted.folder, needed_bytes(wanted, *read.voxels))
        from hsyn_cli.method.register import register

        result = register(
            *read.channels,
            channel_weights=channel_weights, preset=preset, weights=model, device=device,
            threads=threads, seed=seed, affine=affine, transform=transform, similarity=similarity,
            search=search, head=head, smoothness=smoothness, even=even, **read.masks,
            initial_transform=read.initial_transform and read.initial_transform.transform,
            progress=lambda step, fraction: progress(step, BEFORE_WRITING * fraction), told=told,
        )  # fmt: skip
        progress("writing", BEFORE_WRITING)
        shown(result.fixed, result.warped)
        from hsyn_cli.results.written import write

        def make_report() -> Report:
            return assemble(
                result.facts, inputs=read.named(given), outputs=paths, warnings=read.warnings,
                seconds_total=time.monotonic() - start, peak_memory_mb=peak_memory_mb(),
            )  # fmt: skip

        labels = read.moving_labels and read.moving_labels.image
        spared = given.values()
        return write(result, wanted, staging, make_report, moving_labels=labels, spared=spared)


def check_folder(folder: Path) -> None:
    """Raise UsageError for a folder with the name of a file."""
    if names_file(folder) and not folder.is_dir():
        raise UsageError(
            f"-o {folder} is the name of a file; hsyn register writes a folder of files",
            f"give a folder, e.g. -o {folder.with_name('out')}; the image is warped.nii.gz in it",
        )


def check_prefixes(wanted: Wanted) -> None:
    """Raise UsageError for a prefix with the name of a file."""
    check_prefix("--ants-prefix", wanted.ants_prefix)
    check_prefix("--composite", wanted.composite)


def check_prefix(flag: str, prefix: str | None) -> None:
    """Raise UsageError for one prefix with the name of a file."""
    if prefix and names_file(Path(prefix)):
        text = f"{flag} {prefix} is the name of a file, not the beginning of names"
        start = prefix.split(".")[0].removesuffix("Composite")
        raise UsageError(text, f"give the beginning alone, e.g. {start}")


def names_file(path: Path) -> bool:
    """Whether a path ends as images or transforms do."""
    return endings.ends(path, (*endings.IMAGES, *endings.TRANSFORMS))


def check_model(model: str) -> None:
    """Raise WeightsError for a missing checkpoint, before any heavy import."""
    from hsyn_cli.io import checkpoints

    if model not in ("auto", *plugins.names("hsyn_cli.anatomy.organs")):
        checkpoints.find(model)


def read_inputs(
    inputs: Inputs, starts: Starts | None = None, dimension: int | None = None
) -> Checked:
    """Read every file of a registration. Raises InputError, GeometryError, UsageError."""
    from hsyn_cli.io import images
    from hsyn_cli.io.transforms import read_transform
    from hsyn_cli.space import Grid
    from hsyn_cli.space.planes import check_alike

    o = inputs
    moving = images.read_image(o.moving, "moving image")
    fixed = images.read_image(o.fixed, "fixed image")
    check_alike(moving.image, fixed.image)
    own = Grid.of(fixed.image).dimension
    if dimension not in (None, own):
        raise InputError(f"{fixed.path} is {own}-D, not {dimension}-D", f"give -d {own}")
    start = read_transform(o.initial_transform) if o.initial_transform else None
    start, chained = starts.read(own) if starts else (start, ())
    if start is not None and start.dimension != own:
        text = f"initial transform {start.path} is {start.dimension}-D, and the images are"
        raise InputError(f"{text} {own}-D", f"give a {own}-D transform")
    return Checked(
        moving,
        fixed,
        images.read_labels(o.moving_labels, moving.image, "moving labels")
        if o.moving_labels
        else None,
        images.read_mask(o.fixed_mask, fixed.image, "fixed mask") if o.fixed_mask else None,
        images.read_mask(o.moving_mask, moving.image, "moving mask") if o.moving_mask else None,
        images.read_mask(o.fixed_lesion, fixed.image, "fixed lesion") if o.fixed_lesion else None,
        images.read_mask(o.moving_lesion, moving.image, "moving lesion")
        if o.moving_lesion
        else None,
        start,
        tuple(
            (
                images.read_image(there, f"moving image {k}"),
                images.read_image(here, f"fixed image {k}"),
            )
            for k, (there, here) in enumerate(o.others, 2)
        ),
        chained,
    )
