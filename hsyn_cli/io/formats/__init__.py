"""Forms: how programs write displacement fields and affine transforms into files.

In memory a field is a float64 vector image and an affine a (4, 4) matrix, both in mm, LPS, and both
lead from fixed to moving points. Each file of this folder is one form, named as `--from` and `--to`
name it. It defines `FORM`, an object of a subclass of `Form`. `hsyn convert` lists, guesses, reads
and writes it from there.

The form `DEFAULT` takes what no other form claims. Importing this package imports neither numpy nor
SimpleITK, so that --help is quick; the functions do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hsyn_cli import plugins
from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.io.endings import HDF5, IMAGES, NIFTI, TRANSFORMS, ends

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hsyn_cli.io.headers import Header
    from hsyn_cli.space import Array, Grid, Pair

DEFAULT = "itk"
SHARED = (*IMAGES, *TRANSFORMS)  # endings that several forms share
Content = Literal["field", "affine"]
Channels = Literal["first", "last"]


@dataclass(frozen=True)
class Layout:
    """Of .npz and .npy: where the axis of the components stands, and whether values are float16."""

    channels: Channels = "last"
    half: bool = False


class Form:
    """A form with nothing of its own: fields in mm, LPS, in NIfTI files, and no affines.

    A form overrides what it has differently: at least `about`, mostly `intent` and `coordinates`,
    and `load_field` and `save_field` where its files are no NIfTI. It imports numpy in functions.

    Attributes:
        about: what its files hold and which programs use them, for --help.
        field_endings, affine_endings: of the files hsyn writes; () where the form has none.
        intent: of its fields in NIfTI; None: 1007, or 0 where `stacked`.
        intent_name, intent_parameter: of its fields in NIfTI with intent 1007.
        stacked: its NIfTI files are (X, Y, Z, 3), not (X, Y, Z, 1, 3).
        has_grid: its files hold the field's grid; if not, a reference image of their size does.
        by_moving: a displacement ends in coordinates of the moving image's grid.
        affine_to_fixed: its affines lead from moving to fixed.
        absolute: its vectors are the coordinates of the points that displacements lead to.
    """

    about = ""
    field_endings: tuple[str, ...] = NIFTI
    affine_endings: tuple[str, ...] = ()
    intent: int | None = None
    intent_name = "Displacement"  # fields_said.NAME
    intent_parameter = 0.0
    stacked = False
    has_grid = True
    by_moving = False
    affine_to_fixed = False
    absolute = False

    @property
    def says_itself(self) -> bool:
        """True if the header of its NIfTI files tells them from those of other forms."""
        return self.intent is not None or self.intent_name != Form.intent_name

    @property
    def name(self) -> str:
        """The name of its file."""
        return type(self).__module__.rpartition(".")[2]

    def coordinates(self, grid: Grid) -> Array:
        """(4, 4): index (x, y, z, 1) on `grid` -> the coordinates that displacements count in."""
        from hsyn_cli import space

        return space.coordinates(grid, "itk")

    def pair(self, fixed: Grid, moving: Grid) -> Pair:
        """`coordinates` of both grids, as `space.convert_vectors` takes them."""
        return self.coordinates(fixed), self.coordinates(moving)

    def endings(self, content: Content) -> tuple[str, ...]:
        """The endings of its fields or of its affines."""
        return self.field_endings if content == "field" else self.affine_endings

    def own_endings(self, content: Content) -> tuple[str, ...]:
        """Those that neither images nor transforms have, so that a name alone decides the form."""
        return tuple(ending for ending in self.endings(content) if ending not in SHARED)

    def claims(self, path: Path, header: Header | None) -> bool:
        """True if the file at `path` says that it is of this form, by its name or its content.

        `header`: of an image file, else None.
        """
        from hsyn_cli.io import fields_said

        if header is not None:
            said = fields_said.form_of(header)
            own = self.intent is not None and header.intent.code == self.intent
            return own if said is None else said == self.name
        return ends(path, (*self.own_endings("field"), *self.own_endings("affine")))

    def moving_grid(self, moving: Grid | None, fixed: Grid) -> Grid:
        """The grid in which displacements end. Raises UsageError if the form cannot do without."""
        return moving if moving is not None and self.by_moving else fixed

    def affine_grids(
        self, path: Path, fixed: Grid | None, moving: Grid | None
    ) -> tuple[Grid, Grid]:
        """The grids that affines depend on; here none. Raises UsageError where one is missing."""
        from hsyn_cli.io.formats import _affines

        return _affines.BOTH

    def read(
        self, path: Path, fixed: Grid | None, moving: Grid | None, named: bool
    ) -> sitk.Image | Array:
        """The field or affine in a file, as `formats.read` gives it; raises as that.

        `named`: whether someone named the form, so that the header has no say.
        """
        from hsyn_cli.io.formats import _fields

        return _fields.read(self, path, fixed, moving, named)

    def load_field(self, path: Path, named: bool) -> tuple[Array, Grid]:
        """The vectors as the file has them, (Z, Y, X, 3) float64, components x, y, z; their grid.

        Raises InputError, GeometryError.
        """
        from hsyn_cli.io.formats import _fields

        return _fields.load(self, path, named)

    def save_field(self, vectors: Array, grid: Grid, path: Path, layout: Layout) -> None:
        """Write what `load_field` reads, as float32. Raises OutputError.

        `layout` applies to .npz and .npy alone; for other files it is always `Layout()`.
        """
        from hsyn_cli.io.formats import _fields

        _fields.save(self, vectors, grid, path)

    def read_affine(self, path: Path, fixed: Grid | None, moving: Grid | None) -> Array:
        """The affine in a file, (4, 4), fixed -> moving point in mm, LPS; here of plain text.

        Raises UsageError, InputError.
        """
        from hsyn_cli.io.formats import _affines

        return _affines.read(self, path, fixed, moving)

    def write_affine(
        self, matrix: Array, path: Path, fixed: Grid | None, moving: Grid | None
    ) -> None:
        """Write what `read_affine` reads. Raises UsageError, OutputError."""
        from hsyn_cli.io.formats import _affines

        _affines.write(self, matrix, path, fixed, moving)


def names() -> list[str]:
    """Every form; imports none."""
    return plugins.names(__name__)


def forms() -> dict[str, str]:
    """{name of a form: one line about it}."""
    return {name: find(name).about for name in names()}


def find(name: str) -> Form:
    """The form of that name. Raises UsageError for an unknown one."""
    try:
        form: Form = plugins.load(__name__, name).FORM
    except KeyError:
        known = ", ".join(names())
        raise UsageError(f"unknown form {name!r}", f"choose one of {known}") from None
    return form


def guess_form(path: Path) -> str:
    """The form of a file, from its name, and for images and text from what stands in it.

    Raises UsageError where none fits or several do, InputError where it holds no field.
    """
    from hsyn_cli.io import fields_said, headers

    header = headers.read(path, "displacement field") if ends(path, IMAGES) else None
    if header is not None and (refused := fields_said.refusal(header)):
        raise InputError(f"{path} {refused[0]}", refused[1])
    found = [name for name in names() if name != DEFAULT and find(name).claims(path, header)]
    if not found and find(DEFAULT).claims(path, header):
        return DEFAULT
    if not found:
        raise UsageError(
            f"the form of {path} cannot be guessed from its name",
            f"give --from {', '.join(names())}",
        )
    return _the_one(found, path, "--from")


def guess_target_form(path: Path, content: Content) -> str:
    """The form to write, from the name. Raises UsageError where none or several would do."""
    found = [
        name for name in names() if name != DEFAULT and ends(path, find(name).own_endings(content))
    ]
    if found:
        return _the_one(found, path, "--to")
    if content == "affine" and ends(path, (".txt",)):
        fitting = _either([name for name in names() if find(name).affine_endings])
        raise UsageError(f"{path.name} may be ITK's or a plain matrix", f"give --to {fitting}")
    _check_ending(path, DEFAULT, content)
    return DEFAULT


def read(
    path: Path, form: str | None = None, fixed: Grid | None = None, moving: Grid | None = None
) -> sitk.Image | Array:
    """A field as a vector image (float64, mm, LPS), an affine as (4, 4) (mm, LPS).

    Args:
        form: one of `names`, whatever the header says; None: `guess_form` has the say.
        fixed, moving: grids of the images, where the form needs them.

    Raises UsageError (no form fits, or a grid is missing), InputError, and GeometryError for a
    field on another grid than `fixed`.
    """
    named, name = form is not None, form or guess_form(path)
    holders = [other for other in names() if ends(path, find(other).own_endings("field"))]
    holders = [DEFAULT] if ends(path, HDF5) else holders
    if holders and name not in holders:
        text = f"{path.name} can only hold the form {_either(holders)}, not {name}"
        raise UsageError(text, "leave out --from")
    return find(name).read(path, fixed, moving, named)


def write_field(
    field: sitk.Image,
    path: Path,
    form: str,
    moving: Grid | None = None,
    channels: Channels = "last",
    half: bool = False,
) -> float:
    """Write a field (vector image, mm, LPS); returns the largest error in mm that rounding makes.

    `moving`: the grid of the moving image; `channels`, `half`: see `Layout`.
    Raises UsageError, OutputError.
    """
    from hsyn_cli.io.formats import _fields

    _check_ending(path, form, "field")
    return _fields.write(find(form), field, path, moving, Layout(channels, half))


def write_affine(
    matrix: Array, path: Path, form: str, fixed: Grid | None = None, moving: Grid | None = None
) -> None:
    """Write an affine (4, 4), fixed -> moving, mm, LPS. Raises UsageError, OutputError."""
    _check_ending(path, form, "affine")
    find(form).write_affine(matrix, path, fixed, moving)


def _check_ending(path: Path, form: str, content: Content) -> None:
    endings = find(form).endings(content)
    if not endings:
        fitting = [name for name in names() if find(name).endings(content)]
        raise UsageError(
            f"there is no {content} of form {form}", f"choose one of {', '.join(fitting)}"
        )
    if not ends(path, endings):
        what = "a field" if content == "field" else "an affine"
        raise UsageError(
            f"{path.name}: the form {form} of {what} is written as {', '.join(endings)}",
            "choose another name, or --to another form",
        )


def _the_one(found: list[str], path: Path, option: str) -> str:
    if len(found) > 1:
        raise UsageError(f"{path.name} may be {_either(found)}", f"give {option} {_either(found)}")
    return found[0]


def _either(found: list[str]) -> str:
    """The names as a choice: a, b or c."""
    *first, last = found
    return f"{', '.join(first)} or {last}" if first else last
