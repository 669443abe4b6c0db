"""Point files: coordinates in and out, everything else kept, mistakes told with their line."""

import struct
from pathlib import Path

import numpy as np
import pytest

from hsyn_cli.errors import InputError
from hsyn_cli.io import points

CSV = 'x,y,z,t,label,comment\n1,2,3,0,7,"left, upper"\n-4.5,5e1, 6 ,0,8,\n'
VTK = b"""# vtk DataFile Version 3.0
vtk output \xe4
ASCII
DATASET POLYDATA
POINTS 4 float
0 0 0 1.5 0 0
0 1 0
0 0 1e1
POLYGONS 2 8
3 0 1 2
3 0 1 3

POINT_DATA 4
SCALARS a float
LOOKUP_TABLE default
1 2 3 4
"""


def write(folder: Path, content: str | bytes, name: str = "p.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_keeps_all_but_the_coordinates(tmp_path: Path) -> None:
    file = points.read(write(tmp_path, CSV))
    np.testing.assert_array_equal(file.points, [[1, 2, 3], [-4.5, 50, 6]])
    told = file.rewritten(file.points + 0.25).decode()
    assert told.splitlines() == [
        "x,y,z,t,label,comment",
        '1.250000,2.250000,3.250000,0,7,"left, upper"',
        "-4.250000,50.250000,6.250000,0,8,",
    ]


@pytest.mark.parametrize(
    "text",
    ["label,Z, X ,y\na,3,1,2\n", "\ufeffx,y,z\n1,2,3\n\n", "x,y,z\r\n1,2,3\r\n", "x,y,z\n1,2,3"],
)
def test_csv_columns_in_any_order_case_and_line_ending(tmp_path: Path, text: str) -> None:
    file = points.read(write(tmp_path, text))
    np.testing.assert_array_equal(file.points, [[1, 2, 3]])
    again = points.read(write(tmp_path, file.rewritten(file.points * 2)))
    np.testing.assert_array_equal(again.points, [[2, 4, 6]])


def test_bytes_that_are_no_utf8_come_back(tmp_path: Path) -> None:
    file = points.read(write(tmp_path, b"x,y,z,who\n1,2,3,M\xfcller\n"))
    assert file.rewritten(file.points).endswith(b",M\xfcller\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x,y,t\n1,2,3\n", "has no column z"),
        ("1,2,3\n4,5,6\n", "has no column x, y, z"),
        ("", "the file is empty"),
        ("x,y,z\n", "holds no points"),
        ("x,y,z\n1,2,3\n1,two,3\n", r"line 3, column y: 'two' is not a number"),
        ("x,y,z\n1,2,nan\n", r"line 2, column z: 'nan' is not a number"),
        ("x,y,z\n1,,3\n", r"line 2, column y: '' is not a number"),
        ("x,y,z\n1,2\n", r"line 2 has only 2 column"),
        ('who,x,y,z\n"two\nlines",1,2,3\nb,1,2,c\n', r"line 4, column z: 'c'"),
        ("\0\0\1", "is not a text file"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        points.read(write(tmp_path, text))
    assert caught.value.hint
    assert "p.csv" in caught.value.message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        points.read(tmp_path / "none.csv")


def test_ascii_vtk_keeps_every_other_byte(tmp_path: Path) -> None:
    file = points.read(write(tmp_path, VTK, "s.vtk"))
    np.testing.assert_array_equal(file.points, [[0, 0, 0], [1.5, 0, 0], [0, 1, 0], [0, 0, 10]])
    out = file.rewritten(file.points + 1)
    before, after = VTK.split(b"0 0 0 1.5", 1)[0], VTK.split(b"1e1", 1)[1]
    assert out.startswith(before + b"1.000000 1.000000 1.000000\n2.500000")
    assert out.endswith(b"11.000000" + after)
    np.testing.assert_allclose(points.read(write(tmp_path, out, "t.vtk")).points, file.points + 1)


def test_ascii_vtk_that_ends_with_its_points(tmp_path: Path) -> None:
    data = VTK.split(b"POLYGONS")[0]
    assert (
        points.read(write(tmp_path, data, "s.vtk"))
        .rewritten(np.zeros((4, 3)))
        .endswith(b"0.000000\n")
    )


@pytest.mark.parametrize(("kind", "code"), [("float", "f"), ("double", "d")])
def test_binary_vtk(tmp_path: Path, kind: str, code: str) -> None:
    values = [0.0, 1.5, -2.25, 3.0, 4.0, 5.0]
    head = f"# vtk DataFile Version 3.0\nx\nBINARY\nDATASET POLYDATA\nPOINTS 2 {kind}\n".encode()
    rest = b"\nPOLYGONS 0 0\n\x00\xff POINTS 9 float\n"
    file = points.read(write(tmp_path, head + struct.pack(f">6{code}", *values) + rest, "s.vtk"))
    np.testing.assert_array_equal(file.points, np.reshape(values, (2, 3)))
    assert (
        file.rewritten(file.points * 2)
        == head + struct.pack(f">6{code}", *(2 * v for v in values)) + rest
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"0 1 0", b"0 one 0", r"line 7: 'one' is not a number"),
        (b"0 0 1e1\n", b"", r"line 8: 'POLYGONS' is not a number"),
        (b"POINTS 4", b"POINTS 400", r"line 9: 'POLYGONS' is not a number"),
        (b"ASCII", b"XML", "not a legacy VTK file"),
        (b"POINTS 4 float", b"FIELD 4", "has no POINTS"),
        (b"vtk output", b"3D Slicer output. SPACE=RAS", "its points are RAS"),
        (b"ASCII", b"BINARY", "^points"),
    ],
)
def test_bad_vtk(tmp_path: Path, old: bytes, new: bytes, told: str) -> None:
    data = VTK.replace(old, new, 1)
    if new == b"BINARY":
        data = data[:120]
    with pytest.raises(InputError, match=told) as caught:
        points.read(write(tmp_path, data, "s.vtk"))
    assert caught.value.hint
