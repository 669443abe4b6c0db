"""`hsyn check`: what it tells is what the files hold, and what `register` then does."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console
from samples import DIRECTIONS
from stand_ins import TURN

from hsyn_cli.checks import files as checks
from hsyn_cli.checks import pairs
from hsyn_cli.checks.images import check_image, oblique
from hsyn_cli.checks.pairs import PairCheck, check_pair, overlap_of
from hsyn_cli.checks.render import render
from hsyn_cli.checks.repair import write_repaired
from hsyn_cli.checks.trial import phantom
from hsyn_cli.cli import run
from hsyn_cli.cohort import speed
from hsyn_cli.cohort.speed import Speed
from hsyn_cli.errors import HsynError, InputError, OutputError, UsageError
from hsyn_cli.results.register_files import Inputs
from hsyn_cli.space import Grid

STEADY = Speed(1.0, 1.0)
RAS = np.array([[2.0, 0, 0, -20], [0, 3, 0, -30], [0, 0, 4, 40], [0, 0, 0, 1]])
VALUES = np.random.default_rng(0).integers(0, 200, (8, 9, 10)).astype(np.int16)


@pytest.fixture
def pair(tmp_path: Path) -> Inputs:
    """Two phantoms, the moving one bent."""
    paths = [tmp_path / f"{name}.nii.gz" for name in ("m", "f")]
    for path, bend in zip(paths, (0.25, 0.0), strict=True):
        sitk.WriteImage(phantom(bend)[0], str(path))
    return Inputs(*paths)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which a second is a second."""
    monkeypatch.setattr(speed, "measure", lambda workers, threads: STEADY)


def nifti(
    path: Path, change: Callable[[Any], object], affine: Any = RAS, values: Any = VALUES
) -> Path:
    """A file with qform = sform in mm, and then a `change` of its header."""
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    whole = image.to_bytes()
    header = nib.Nifti1Header(whole[:348])
    change(header)  # nibabel would mend it
    data = header.binaryblock + whole[348:]
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def metres(header: Any) -> None:
    for form in ("qform", "sform"):
        matrix = getattr(header, f"get_{form}")()
        matrix[:3] /= 1000
        getattr(header, f"set_{form}")(matrix, 1)
    header.set_xyzt_units("meter", "sec")


def conflict(header: Any) -> None:

    header.set_qform(RAS + np.array([[0, 0, 0, 12.0]] + 3 * [[0] * 4]), 1)


def no_codes(header: Any) -> None:
    header["qform_code"] = header["sform_code"] = 0


def sform_alone(header: Any) -> None:
    header["qform_code"] = 0


def four_axes(header: Any) -> None:
    header["dim"] = [4, *VALUES.shape, 1, 1, 1, 1]


def nothing(header: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "told", "guess"),
    [
        (nothing, None, False),
        (metres, "the lengths are in metres", False),
        (sform_alone, "only the sform tells where the image lies", False),
        (four_axes, "the header has 4 axes", False),
        (conflict, "sform and qform disagree by up to 12.0 mm", True),
        (no_codes, "the header gives no orientation", True),
    ],
)
def test_headers(change: Callable[[Any], object], told: str, guess: bool, tmp_path: Path) -> None:
    path, out = nifti(tmp_path / "a.nii", change), tmp_path / "out.nii"
    found = check_image(path)
    assert found.size == VALUES.shape
    assert found.voxel_mm == pytest.approx((2, 3, 4))
    assert found.type == "int16"
    assert found.seen is not None
    assert (found.seen.low, found.seen.high) == (VALUES.min(), VALUES.max())
    assert found.orientation == ("LPS" if change is no_codes else "RAS")
    if told is None:
        assert found.findings == ()
        assert write_repaired([path], out) == []
        assert not out.exists()
        return
    (finding,) = found.findings
    assert finding.text.startswith(told)
    assert any(told in line for line in found.warnings) == finding.told
    if guess:
        with pytest.raises(InputError, match="a repair would be a guess"):
            write_repaired([path], out)
        assert not out.exists()
        return
    (written,) = write_repaired([path], out)
    assert written.changes == (finding.repaired,)
    again = nib.load(out)
    np.testing.assert_array_equal(np.asarray(again.dataobj), VALUES)
    assert again.get_data_dtype() == np.int16
    for form, code in (again.get_sform(coded=True), again.get_qform(coded=True)):
        np.testing.assert_allclose(form, RAS, atol=1e-4)
        assert code == 1
    assert again.header.get_xyzt_units()[0] == "mm"
    assert check_image(out).findings == ()
    with pytest.raises(OutputError, match="exists"):
        write_repaired([path], out)
    write_repaired([path], out, force=True)


def test_several_are_repaired_into_a_folder(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    a = nifti(tmp_path / "one" / "a.nii.gz", sform_alone)
    b = nifti(tmp_path / "two" / "b.nii.gz", nothing)
    twin = nifti(tmp_path / "three" / "a.nii.gz", metres)
    out = tmp_path / "out"
    (written,) = write_repaired([a, b], out)
    assert written.path == str(out / "a.nii.gz")
    assert [path.name for path in out.iterdir()] == ["a.nii.gz"]
    with pytest.raises(UsageError, match="would become one file"):
        write_repaired([a, twin], out, force=True)
    with pytest.raises(UsageError, match="the name of one image"):
        write_repaired([a, b], tmp_path / "new.nii.gz")
    with pytest.raises(OutputError, match="is an input"):
        write_repaired([a], a, force=True)
    series = nifti(tmp_path / "s.nii", nothing, values=np.stack([VALUES] * 3, -1))
    with pytest.raises(InputError, match="not one 3-D image of scalars"):
        write_repaired([series], tmp_path / "t.nii")


def test_an_oblique_image() -> None:
    turned = Grid((5, 6, 7), (1, 1, 1), (0, 0, 0), TURN)
    assert oblique(turned) == pytest.approx(
        np.degrees(np.arccos(np.abs(np.diag(turned.axes)).min()))
    )
    for name in ("LPS", "RAS", "sagittal", "flipped"):
        assert oblique(Grid((5, 6, 7), (1, 1, 1), (0, 0, 0), DIRECTIONS[name])) == 0


def test_overlap_of_fields_of_view() -> None:
    grid = Grid((20, 10, 30), (1.0, 2.0, 1.5), (3.0, 4.0, 5.0), DIRECTIONS["RAS"])
    assert overlap_of(grid, grid) == 1
    assert overlap_of(grid, grid.shifted(np.array([5.0, 0, 0]))) == pytest.approx(0.75)
    assert overlap_of(grid, grid.shifted(np.array([50.0, 0, 0]))) == 0
    inside = Grid(
        (5, 5, 5), (1.0, 2.0, 1.5), tuple(grid.points(np.array([4.0, 2, 9]))), grid.direction
    )
    assert overlap_of(inside, grid) == 1
    assert overlap_of(grid, inside) == pytest.approx(1, abs=0.15)  # by samples of the larger one


def told(inputs: Inputs, **options: Any) -> PairCheck:
    return check_pair(inputs, {"preset": "fast", **options}, lambda: STEADY)


def save(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the values of an image."""
    image = sitk.ReadImage(str(path))
    new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)).astype(np.float32))
    new.CopyInformation(image)
    sitk.WriteImage(new, str(path))


def other_contrast(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, 40 + 90 * np.abs(np.sin(values / 12)), 0)


def apart(path: Path) -> None:
    image = sitk.ReadImage(str(path))
    image.SetOrigin(np.add(image.GetOrigin(), (400, 0, 0)).tolist())
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, None),
        ({"transform": "rigid"}, None),
        ({"similarity": "mind", "affine": "none"}, None),
        ({}, lambda path: save(path, other_contrast)),
        ({}, apart),
        ({"affine": "none"}, apart),
        ({}, lambda path: save(path, lambda v: v * 0)),
        ({"model": "lung"}, None),
        ({"model": "nobody"}, None),
        ({}, lambda path: path.write_bytes(b"no image")),
    ],
)
def test_register_does_what_was_told(
    options: Mapping[str, Any], change: Callable[[Path], object] | None, pair: Inputs,
    tmp_path: Path,
) -> None:  # fmt: skip
    from hsyn_cli.results.register_files import register_files
    from hsyn_cli.results.run_folder import Wanted

    if change is not None:
        change(pair.moving)
    found = told(pair, **options)
    try:
        report = register_files(
            pair, Wanted(tmp_path / "out", html=False), threads=1, preset="fast", **options
        )
    except HsynError as raised:
        ends = [(one.message, one.hint, one.exit_code) for one in (raised, found.refused) if one]
        assert len(ends) == 2
        assert ends[0] == ends[1]
        assert found.used is None
        return
    assert found.refused is None
    assert found.used is not None
    assert found.placed is not None
    facts = report.facts
    assert found.used.checkpoint == facts.checkpoint.name
    assert found.used.device == facts.device
    if not found.used.matched:
        names = {"ncc": "local NCC", "mind": "MIND"}
        assert facts.similarity.measure.startswith(names[found.used.similarity])
    assert found.placed.contrast == pytest.approx(facts.contrast)
    assert facts.linear is not None
    assert found.placed.scales == pytest.approx(facts.linear.scales, abs=1e-4)
    assert found.placed.rotation_degrees == pytest.approx(facts.linear.rotation_degrees, abs=0.01)
    assert set(found.warnings) >= {line for line in facts.warnings if "contrast" not in line}


def test_bad_news_about_the_alignment_is_told_before(pair: Inputs) -> None:
    def grown(path: Path) -> None:
        image = sitk.ReadImage(str(path))
        image.SetSpacing([0.5 * s for s in image.GetSpacing()])
        sitk.WriteImage(image, str(path))

    grown(pair.moving)
    assert any("may not be trusted" in line for line in told(pair).warnings)


def test_what_does_not_fit_is_told(pair: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "free_memory_mb", lambda: 100.0)
    found = check_pair(pair, {"preset": "fast"}, lambda: Speed(3.0, 1.0))
    assert found.cost is not None
    assert not found.cost.fits
    assert found.cost.seconds == pytest.approx(3 * found.cost.seconds_alone)
    text = " ".join(found.warnings)
    assert "and 100 MB are free: close other programs" in text
    assert "other programs use the cores now" in text


@pytest.mark.usefixtures("steady")
def test_the_command(
    pair: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["check", "-m", "m.nii.gz", "-f", "f.nii.gz", "--threads", "1"]
    assert run([*words, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    (found,) = plain["pairs"]
    assert found["used"]["checkpoint"] == "none"
    assert found["used"]["why"]
    assert found["moving"]["orientation"] == "RAS"
    assert found["cost"]["fits"] in (True, False)
    assert found["refused"] is None
    assert run(words) == 0
    assert "working grid" in capsys.readouterr().out
    assert run(["check", "m.nii.gz", "f.nii.gz", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    Path("bad.nii").write_bytes(b"bad")
    assert run(["check", "m.nii.gz", "bad.nii"]) == 3
    captured = capsys.readouterr()
    assert captured.err.startswith("error: image bad.nii: its header is damaged")
    assert "24 x 28 x 20 voxels of 4 x 4 x 4 mm, RAS" in captured.out


@pytest.mark.usefixtures("steady")
def test_a_list(
    pair: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.nii").write_bytes(b"bad")
    Path("pairs.csv").write_text(
        "moving,fixed,id,transform\nm.nii.gz,f.nii.gz,good,rigid\nbad.nii,f.nii.gz,bad,\n"
    )
    assert run(["check", "pairs.csv", "--json", "--threads", "1"]) == 11
    captured = capsys.readouterr()
    first, second = json.loads(captured.out)["pairs"]
    assert (first["name"], first["used"]["transform"]) == ("good", "rigid")
    assert second["refused"]["exit_code"] == 3
    assert captured.err.startswith("error: 1 of 2 pairs cannot be registered\n  bad\n")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-m", "m.nii.gz"],
        ["m.nii.gz", "-m", "m.nii.gz", "-f", "f.nii.gz"],
        ["pairs.csv", "m.nii.gz"],
        ["m.nii.gz", "--preset", "fast"],
        ["m.nii.gz", "--fixed-mask", "f.nii.gz"],
        ["m.nii.gz", "--force"],
    ],
)
def test_what_does_not_go_together(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", *words]) == 2
    assert "error" in capsys.readouterr().err


def test_the_tables_fit_a_terminal(pair: Inputs) -> None:
    console = Console(width=80)
    both = (told(pair), told(pair, model="nobody"))
    images = (check_image(pair.moving), check_image(Path("nothing.nii")))
    with console.capture() as capture:
        for listed in (True, False):
            console.print(render(checks.Check(images, both, (), listed)))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "unknown checkpoint 'nobody'" in text
    assert "there is nothing to repair" in text
