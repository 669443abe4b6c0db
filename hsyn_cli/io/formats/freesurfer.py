"""FreeSurfer's affines: LTA files, which lead from moving to fixed and name both geometries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsyn_cli.errors import GeometryError, InputError, UsageError
from hsyn_cli.io.endings import LTA
from hsyn_cli.io.formats import Form

if TYPE_CHECKING:
    from hsyn_cli.space import Array, Grid

VOXELS, RAS = 0, 1  # the types that hsyn reads; it writes RAS
KEYS = ("valid", "volume", "voxelsize", "xras", "yras", "zras", "cras")  # of a geometry
SAME = 0.05  # mm; files hold few digits
DAMAGED = "it is damaged, or no LTA file; FreeSurfer's lta_convert checks and rewrites it"


class FreeSurfer(Form):
    """Text: a matrix from the source, the moving image, to the destination, the fixed one.

    Type 0 counts in voxels, type 1 in mm, RAS. Source: FreeSurfer's utils/transform.cpp.
    """

    about = "affines as .lta, moving to fixed, in voxels or mm, RAS (FreeSurfer)"
    field_endings = ()
    affine_endings = LTA
    affine_to_fixed = True

    def coordinates(self, grid: Grid) -> Array:
        from hsyn_cli import space

        return space.coordinates(grid, "ras")

    def read(self, path: Path, fixed: Grid | None, moving: Grid | None, named: bool) -> Array:
        """There are no fields."""
        return self.read_affine(path, fixed, moving)

    def read_affine(self, path: Path, fixed: Grid | None, moving: Grid | None) -> Array:
        """`fixed` and `moving` stand for geometries that the file marks as not valid.

        Raises GeometryError if they are not those of a file that has its own.
        """
        import numpy as np

        from hsyn_cli.io import files
        from hsyn_cli.io.formats import _affines

        files.check_file(path, "affine")
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kind, matrix, source, target = _parsed([line.partition("#")[0] for line in lines])
        except (ValueError, LookupError) as error:
            raise InputError(f"{path} is not a whole LTA file of one matrix", DAMAGED) from error
        if kind not in (VOXELS, RAS):
            text = f"{path}: hsyn does not read LTA files of type {kind}"
            hint = "make one of type 1: lta_convert --inlta IN.lta --outlta OUT.lta"
            raise InputError(text, hint)
        given = tuple(None if grid is None else self.coordinates(grid) for grid in (moving, fixed))
        _check_images(path, (source, target), given)
        if kind == VOXELS:
            source = given[0] if source is None else source
            target = given[1] if target is None else target
            if source is None or target is None:
                text = f"{path} counts in voxels and lacks the geometry of an image"
                raise UsageError(text, "give both: --reference FIXED --moving MOVING")
            matrix = target @ matrix @ np.linalg.inv(source)
        return _affines.to_memory(self, matrix, path)

    def write_affine(
        self, matrix: Array, path: Path, fixed: Grid | None, moving: Grid | None
    ) -> None:
        """Of type 1. Raises UsageError without both grids, OutputError."""
        from hsyn_cli.io import atomic
        from hsyn_cli.io.formats import _affines

        if fixed is None or moving is None:
            raise UsageError(
                f"an LTA file such as {path.name} holds the geometry of both images",
                "give them: --reference FIXED --moving MOVING",
            )
        lines = [f"type      = {RAS} # LINEAR_RAS_TO_RAS", "nxforms   = 1"]
        lines += ["mean      = 0.0000 0.0000 0.0000", "sigma     = 1.0000", "1 4 4"]
        lines += [_row(row) for row in _affines.from_memory(self, matrix).tolist()]
        for name, grid in (("src", moving), ("dst", fixed)):
            lines += [f"{name} volume info", *_geometry(grid, self.coordinates(grid))]
        atomic.write_text(path, "\n".join([*lines, ""]))


def _check_images(
    path: Path, said: tuple[Array | None, ...], given: tuple[Array | None, ...]
) -> None:
    """Raise GeometryError if given images, moving and fixed, are not those that the file names."""

    def fit(one: Array | None, other: Array | None) -> bool:
        return one is None or other is None or bool(abs(one - other).max() < SAME)

    words = (("moving", "src"), ("fixed", "dst"))
    for (role, word), own, image in zip(words, said, given, strict=True):
        if not fit(own, image):
            text = f"{path}: the {role} image is not on the grid that the file gives as {word}"
            turned = all(map(fit, said, given[::-1]))
            hint = "leave both images out" if not turned else "they fit the other way round"
            raise GeometryError(text, f"{hint}: an LTA file leads from src to dst")


def _parsed(lines: list[str]) -> tuple[int, Array, Array | None, Array | None]:
    """The type, the matrix, and what leads from voxels of both images to mm, RAS.

    Raises ValueError, LookupError.
    """
    import numpy as np

    lines = [" ".join(line.split()) for line in lines if line.strip()]
    at, source, target = (lines.index(s) for s in ("1 4 4", "src volume info", "dst volume info"))
    head = _values(lines[:at])
    if head["nxforms"] != ["1"]:
        raise ValueError
    matrix = np.array([line.split() for line in lines[at + 1 : at + 5]], dtype=float)
    if matrix.shape != (4, 4):
        raise ValueError
    geometries = (_values(lines[source:target]), _values(lines[target:]))
    there, here = (_to_ras({key: values[key] for key in KEYS}) for values in geometries)
    return int(head["type"][0]), matrix, there, here


def _values(lines: list[str]) -> dict[str, list[str]]:
    """{key: words} of lines `key = words`."""
    pairs = (line.partition("=") for line in lines)
    return {key.strip(): words.split() for key, _, words in pairs}


def _to_ras(geometry: dict[str, list[str]]) -> Array | None:
    """(4, 4), index -> mm RAS; cras is the place of the voxel at half the size. None: not valid."""
    import numpy as np

    if geometry["valid"] != ["1"]:
        return None
    size, steps, *axes, centre = (np.array(geometry[key], dtype=float) for key in KEYS[1:])
    out = np.eye(4)
    out[:3, :3] = np.stack(axes, axis=1) * steps
    out[:3, 3] = centre - out[:3, :3] @ (size / 2)
    if not np.isfinite(out).all() or abs(np.linalg.det(out)) == 0:
        raise ValueError
    return out


def _geometry(grid: Grid, to_ras: Array) -> list[str]:
    """The inverse of `_to_ras`, in lines."""
    import numpy as np

    centre = to_ras @ (*(np.array(grid.size) / 2), 1)
    axes = (to_ras[:3, :3] / grid.spacing).T
    vectors = zip(("xras  ", "yras  ", "zras  ", "cras  "), (*axes, centre[:3]), strict=True)
    return [
        "valid = 1  # volume info valid",
        "filename = unknown",
        "volume = {} {} {}".format(*grid.size),
        f"voxelsize = {_row(grid.spacing)}",
        *(f"{name} = {_row(vector.tolist())}" for name, vector in vectors),
    ]


def _row(numbers: list[float] | tuple[float, ...]) -> str:
    return " ".join(f"{number:.15e}" for number in numbers)


FORM = FreeSurfer()
