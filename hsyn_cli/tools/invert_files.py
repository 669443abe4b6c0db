"""Invert the displacement field in a file and write the inverse to a file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsyn_cli.io import atomic, files

if TYPE_CHECKING:
    from hsyn_cli.tools.inversion import Inversion


@dataclass(frozen=True)
class InvertedFile:
    """The `inversion`, its file `output`, and warnings about the field."""

    inversion: Inversion
    output: Path
    warnings: tuple[str, ...]


def invert_files(
    field: Path,
    out: Path | None = None,
    *,
    reference: Path | None = None,
    residual_map: Path | None = None,
    tolerance: float = 0.005,
    fit: bool = False,
    weights: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> InvertedFile:
    """Invert a field and write the inverse to `out`, by default beside the field; see `invert`.

    Args:
        residual_map: file that gets the residual.

    Raises:
        UsageError, InputError, GeometryError, DeviceError, WeightsError, OutputError: see `errors`.
    """
    out = out or files.beside(field, "_inverse.nii.gz")
    targets = [out] if residual_map is None else [out, residual_map]
    files.check_image_names(targets)
    inputs = [path for path in (field, reference) if path is not None]
    with atomic.claim(targets, force=force, inputs=inputs) as staging:
        from hsyn_cli.io import images, writing

        with ThreadPoolExecutor(1) as pool:
            progress("reading", 0.0)
            reading = pool.submit(images.read_field, field, either_way=True)
            from hsyn_cli.tools.invert import invert  # imports torch meanwhile

            read = reading.result()
        inversion = invert(
            read.image, reference, tolerance=tolerance, fit=fit, weights=weights, device=device,
            threads=threads, progress=lambda step, part: progress(step, 0.1 + 0.75 * part),
        )  # fmt: skip
        progress("writing", 0.85)
        writing.write_image(inversion.inverse, staging.path(out))
        if residual_map is not None:
            writing.write_image(inversion.residual_map, staging.path(residual_map))
        staging.commit()
    return InvertedFile(inversion, out, read.warnings)
