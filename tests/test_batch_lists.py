"""Lists of pairs become jobs: from tables and from scans, with every fault told at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hsyn_cli.cli.endings import say
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.lists import from_scans, from_table
from hsyn_cli.cohort.names import LONGEST, is_safe, safe, usual_ids
from hsyn_cli.errors import InputError

PARTS = ("s1/T1.nii.gz", "s2/T1.nii.gz", "s2/T2.nii.gz", "mni.nii.gz", "t2mni.nii.gz", "mask.nii")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name in PARTS:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def table(folder: Path, text: str, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        from_table(path, {})
    return [line.replace(f"{path.parent}/", "") for line in caught.value.more] or [
        caught.value.message.replace(f"{path.parent}/", "")
    ]


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_with_all_kinds_of_columns(study: Path, bom: str, separator: str) -> None:
    text = (
        "moving, fixed, id, moving_2, fixed_2, fixed_mask, initial, preset, seed, smoothness\n"
        "s1/T1.nii.gz, mni.nii.gz, one, , , , , , , \n"
        '\n"s2/T1.nii.gz", mni.nii.gz, , s2/T2.nii.gz, t2mni.nii.gz, mask.nii, mask.nii, fast, 3, 2'
    )
    text = text.replace(", ", separator).replace(",", separator)
    one, two = from_table(table(study, bom + text), {"preset": "accurate", "threads": 1})
    assert (one.id, one.folder, one.names) == ("one", "pairs/one", {})
    assert one.options == {"preset": "accurate", "threads": 1}
    assert one.inputs.given == {
        "moving": study / "s1/T1.nii.gz",
        "fixed": study / "mni.nii.gz",
    }
    assert two.id == "T1_to_mni"
    assert two.options == {"preset": "fast", "threads": 1, "seed": 3, "smoothness": 2.0}
    assert two.inputs.given == {
        "moving": study / "s2/T1.nii.gz",
        "fixed": study / "mni.nii.gz",
        "moving_2": study / "s2/T2.nii.gz",
        "fixed_2": study / "t2mni.nii.gz",
        "fixed_mask": study / "mask.nii",
        "initial_transform": study / "mask.nii",
    }


def test_names_with_commas_and_blanks(study: Path) -> None:
    (study / "a, b.nii.gz").write_bytes(b"x")
    (job,) = from_table(table(study, 'moving,fixed\n"a, b.nii.gz",mni.nii.gz\n'), {})
    assert job.inputs.moving == study / "a, b.nii.gz"
    assert job.id == "a_b_to_mni"


def test_absolute_paths_and_those_of_another_folder(study: Path) -> None:
    (study / "lists").mkdir()
    text = f"moving,fixed\n../s1/T1.nii.gz,{study / 'mni.nii.gz'}\n"
    (job,) = from_table(table(study / "lists", text), {})
    assert job.inputs.moving.samefile(study / "s1/T1.nii.gz")
    assert job.inputs.fixed == study / "mni.nii.gz"


def test_every_fault_is_told_with_its_line(study: Path) -> None:
    text = (
        "moving,fixed,id,preset,seed,moving_2,fixed_2,transform,affine,model\n"
        "s9/T1.nii.gz,mni.nii.gz,,,,,,,,\n"
        "s1,mni.nii.gz,a/b,,,,,,,\n"
        "s1/T1.nii.gz,,A,fats,,,,,,\n"
        "s1/T1.nii.gz,mni.nii.gz,a,,1.5,s2/T2.nii.gz,,rigid,none,brain-t9\n"
    )
    told = faults(table(study, text))
    assert told[0] == (
        "pairs.csv line 2: moving image s9/T1.nii.gz does not exist; correct the path"
    )
    assert told[1].startswith("pairs.csv line 3: id 'a/b' is no file name on every system")
    assert told[2].startswith("pairs.csv line 3: moving image s1 is a folder, not a file")
    assert told[3] == "pairs.csv line 4: no fixed image is given"
    assert told[4].startswith("pairs.csv line 4: preset 'fats' is not known; give fast, default")
    assert told[5] == "pairs.csv line 5: id a is that of line 4, too; give each pair its own"
    assert told[6].startswith("pairs.csv line 5: channel 2 is given of one image alone")
    assert told[7].startswith("pairs.csv line 5: unknown checkpoint 'brain-t9'")
    assert told[8] == "pairs.csv line 5: seed '1.5' is not known; give a whole number from 0 on"
    assert told[9].startswith("pairs.csv line 5: transform rigid and affine none contradict")
    assert len(told) == 10


def test_many_faults_are_counted(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"n{k}.nii.gz,mni.nii.gz\n" for k in range(25))
    path = table(study, f"moving,fixed\n{rows}")
    with pytest.raises(InputError) as caught:
        from_table(path, {})
    assert len(caught.value.more) == 11
    assert say(caught.value) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {path} has 25 faults"
    assert lines[-2:] == ["  and 15 more", "hint: correct the table; no pair was started"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("moving,fixed\n", "lists no pair"),
        ("", "lists no pair"),
        ("moving,fixed,colour,size\na,b,c,d\n", "unknown columns colour, size"),
        ("moving,id\na,b\n", "lacks the column fixed"),
        ("a.nii.gz,b.nii.gz\nc.nii.gz,d.nii.gz\n", "unknown columns a.nii.gz, b.nii.gz"),
        ("moving,fixed,moving\na,b,c\n", "two columns are named moving"),
    ],
)
def test_tables_that_are_none(study: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_table(table(study, text), {})
    assert "columns" in caught.value.message + caught.value.hint


def test_columns_in_capitals(study: Path) -> None:
    text = "Moving,FIXED,Initial_Transform\ns1/T1.nii.gz,mni.nii.gz,mask.nii\n"
    (job,) = from_table(table(study, text), {})
    assert job.inputs.initial_transform == study / "mask.nii"
    (told,) = faults(table(study, "moving,Moving,fixed\na,b,c\n"))
    assert told == "pairs.csv: two columns are named moving"


@pytest.mark.parametrize("rows", [1, 3])
def test_a_table_without_column_names(study: Path, rows: int) -> None:
    with pytest.raises(InputError, match=r"pairs\.csv line 1 is a pair") as caught:
        from_table(table(study, "s1/T1.nii.gz; mni.nii.gz\n" * rows), {})
    assert caught.value.hint == "the first line must name the columns, as in: moving,fixed"


@pytest.mark.parametrize(("coding", "line"), [("latin-1", 3), ("utf-16", 1)])
def test_a_table_in_another_coding(study: Path, coding: str, line: int) -> None:
    path = study / "pairs.csv"
    path.write_bytes("moving,fixed\r\na,b\r\nM\u00fcller,b\r\n".encode(coding))
    with pytest.raises(InputError, match=rf"pairs\.csv line {line} is not in UTF-8") as caught:
        from_table(path, {})
    assert caught.value.hint == "save it as UTF-8"


def test_one_name_of_the_transform_is_told(study: Path) -> None:
    with pytest.raises(InputError) as caught:
        from_table(table(study, "moving,fixed,colour\na,b,c\n"), {})
    assert " initial," in caught.value.hint
    assert "initial_transform" not in caught.value.hint


def test_cells_beyond_the_columns(study: Path) -> None:
    usual = "s1/T1.nii.gz,mni.nii.gz"
    assert len(from_table(table(study, f"moving,fixed,\n{usual},,\n"), {})) == 1
    (told,) = faults(table(study, f"moving,fixed\n{usual},3,4\n"))
    assert told.startswith("pairs.csv line 2: cells without a column (3 4)")


def test_weights_need_as_many_channels(study: Path) -> None:
    head = "moving,fixed,moving_2,fixed_2,channel_weights\n"
    row = "s1/T1.nii.gz,mni.nii.gz,s2/T2.nii.gz,t2mni.nii.gz"
    (job,) = from_table(table(study, f"{head}{row},1 0.5\n"), {})
    assert job.options == {"channel_weights": [1.0, 0.5]}
    (told,) = faults(table(study, f"{head}{row},1\n"))
    assert "1 weight for 2 channels" in told


def test_a_model_beside_the_table(study: Path) -> None:
    (study / "my.safetensors").write_bytes(b"x")
    text = "moving,fixed,model\ns1/T1.nii.gz,mni.nii.gz,my.safetensors\n"
    (job,) = from_table(table(study, text), {})
    assert job.options == {"model": str(study / "my.safetensors")}


def ids(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


def test_scans_named_alike_get_their_folders(study: Path) -> None:
    scans = [study / "s1/T1.nii.gz", study / "s2/T1.nii.gz", study / "s2/T2.nii.gz"]
    jobs = from_scans(study / "mni.nii.gz", scans, {"preset": "fast"})
    assert ids(jobs) == ["s1_T1_to_mni", "s2_T1_to_mni", "T2_to_mni"]
    assert [job.inputs.moving for job in jobs] == scans
    assert all(job.options == {"preset": "fast"} for job in jobs)


def test_scans_given_twice_or_missing(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    scans = [Path("s1/T1.nii.gz"), study / "s1/../s1/T1.nii.gz", Path("s3.nii.gz")]
    with pytest.raises(InputError, match="the scans have 3 faults") as caught:
        from_scans(Path("none.nii.gz"), scans, {})
    fixed, twice, missing = caught.value.more
    assert fixed == "fixed image none.nii.gz does not exist; correct the path"
    assert "is given twice, first as s1/T1.nii.gz" in twice
    assert missing.startswith("moving image s3.nii.gz does not exist")
    with pytest.raises(InputError, match="no moving image is given"):
        from_scans(Path("mni.nii.gz"), [], {})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sub-01_T1w", "sub-01_T1w"),
        ("Müller Größe", "Muller_Gro_e"),
        ("..hidden.", "hidden"),
        ("con", "_con"),
        ("LPT1.x", "_LPT1.x"),
        ("console", "console"),
        ("日本", "_"),
        ("...", "pair"),
    ],
)
def test_safe_names(text: str, name: str) -> None:
    assert safe(text) == name
    assert is_safe(name)


def test_long_names_stay_apart() -> None:
    one, two = (safe("x" * 150 + end) for end in "ab")
    assert one != two
    assert len(one) == len(two) == LONGEST
    assert is_safe(one)


def test_usual_ids_are_unique_where_case_does_not_count() -> None:
    fixed = Path("/t/mni.nii.gz")
    pairs = [(Path(f"/d/{name}.nii.gz"), fixed) for name in ("a", "A", "b")]
    found = usual_ids(pairs, taken=["B_TO_MNI"])
    assert len({name.casefold() for name in (*found, "b_to_mni")}) == 4
    same = usual_ids([pairs[0]] * 3)
    assert len(set(same)) == 3
    assert all(re.match("a_to_mni", name) for name in same)


def test_usual_ids_take_the_folders_of_the_side_that_differs() -> None:
    moving = Path("/d/m.nii")
    found = usual_ids([(moving, Path(f"/t/{age}/x/mni.nii")) for age in ("young", "old")])
    assert found == ["m_to_young_x_mni", "m_to_old_x_mni"]
