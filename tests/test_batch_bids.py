"""A BIDS dataset becomes jobs, and their outputs a valid dataset of derivatives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import SimpleITK as sitk
from samples import coarse_brain
from stand_ins import fake_result
from test_batch_keep import write

from hsyn_cli.cohort.bids import check_space, from_bids
from hsyn_cli.cohort.bids_study import describe
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.errors import InputError, OutputError, UsageError
from hsyn_cli.results.run_folder import Wanted, targets, words_of

SCANS = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_acq-mprage_run-1_T1w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_acq-mprage_run-2_T1w.nii",
    "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_T2w.nii.gz",
    "sub-03/anat/sub-03_chunk-1_T1w.nii.gz",
)
# BIDS 1.10: entities of images in anat, each once, in this order, before the suffix.
IMAGE = re.compile(
    r"sub-[A-Za-z0-9+]+(_ses-[A-Za-z0-9+]+)?(_acq-\w+?)?(_run-\d+)?(_space-[A-Za-z0-9+]+)"
    r"(_chunk-\d+)?(_desc-[A-Za-z0-9+]+)?_(T1w|dseg)\.nii\.gz"
)
TRANSFORM = re.compile(
    r"sub-[A-Za-z0-9+]+(_ses-[A-Za-z0-9+]+)?(_acq-\w+?)?(_run-\d+)?_from-[A-Za-z0-9+]+"
    r"_to-[A-Za-z0-9+]+_mode-image(_chunk-\d+)?(_desc-[A-Za-z0-9+]+)?"
    r"_(xfm\.(nii\.gz|mat)|report\.(html|json)|thumbnail\.png)"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    image = sitk.Cast(coarse_brain("moving", 6.0), sitk.sitkFloat32)
    for name in SCANS:
        path = tmp_path / "bids" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))
    sitk.WriteImage(image, str(tmp_path / "mni.nii.gz"))
    (tmp_path / "bids" / "sub-03" / "anat" / "sub-03_T1w.json").write_text("{}")
    about = {"Name": "Old", "BIDSVersion": "1.8.0", "DatasetDOI": "doi:10.1/x"}
    (tmp_path / "bids" / "dataset_description.json").write_text(json.dumps(about))
    return tmp_path / "bids"


def jobs_of(root: Path, *participants: str, suffix: str = "T1w") -> list[Job]:
    template = root.parent / "mni.nii.gz"
    return from_bids(root, template, "MNI", {"seed": 1}, participants or None, suffix)


def test_all_sessions_and_runs_are_found(root: Path) -> None:
    jobs = jobs_of(root)
    assert [str(job.inputs.moving.relative_to(root)) for job in jobs] == [
        name for name in SCANS if "T2w" not in name
    ]
    assert [job.id for job in jobs[:2]] == [
        "sub-01_T1w_to_MNI",
        "sub-02_ses-a_acq-mprage_run-1_T1w_to_MNI",
    ]
    assert [job.folder for job in jobs[:2]] == ["sub-01/anat", "sub-02/ses-a/anat"]
    assert all(job.options == {"seed": 1} for job in jobs)
    (t2,) = jobs_of(root, suffix="T2w")
    assert t2.names["warped"] == "sub-02_ses-b_space-MNI_T2w.nii.gz"
    assert [job.folder for job in jobs_of(root, "sub-03", "03", "01")] == [
        "sub-03/anat",
        "sub-01/anat",
    ]


def test_names_are_those_of_bids_and_of_fmriprep(root: Path) -> None:
    jobs = jobs_of(root)
    start = "sub-02_ses-a_acq-mprage_run-1_"
    expected = {
        "warped": "space-MNI_T1w.nii.gz",
        "inverse_warped": "space-T1w_desc-MNI_T1w.nii.gz",
        "forward_field": "from-T1w_to-MNI_mode-image_xfm.nii.gz",
        "inverse_field": "from-MNI_to-T1w_mode-image_xfm.nii.gz",
        "affine": "from-T1w_to-MNI_mode-image_desc-affine_xfm.mat",
        "page": "from-T1w_to-MNI_mode-image_report.html",
        "report": "from-T1w_to-MNI_mode-image_report.json",
    }
    assert {name: jobs[1].names[name] for name in expected} == {
        name: start + end for name, end in expected.items()
    }
    for job in jobs:
        for name in job.names.values():
            assert IMAGE.fullmatch(name) or TRANSFORM.fullmatch(name), name
    paths = [f"{job.folder}/{name}" for job in jobs for name in job.names.values()]
    assert len({path.casefold() for path in paths}) == len(paths)
    everything = Wanted(Path(), midspace=True, labels=True)
    assert targets(everything).keys() <= jobs[0].names.keys()


def test_what_is_missing_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        jobs_of(root, "07", "sub-01")
    assert caught.value.message == "--participant-label 07: no such folder; there are 01, 02, 03"
    with pytest.raises(InputError, match="holds no FLAIR image"):
        jobs_of(root, suffix="FLAIR")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no folder sub-\*"):
        jobs_of(tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder"):
        jobs_of(tmp_path / "none")
    with pytest.raises(InputError, match="no such file"):
        from_bids(root, tmp_path / "none.nii", "MNI", {})


def test_names_that_bids_does_not_take(root: Path) -> None:
    for space in ("MNI_2009", "", "a-b", "T1w"):
        with pytest.raises(UsageError, match="--space"):
            check_space(space)
    anat = root / "sub-01/anat"
    for name in ("sub-02_T1w.nii.gz", "sub-01_final_T1w.nii.gz", "sub-01_T1w.nii"):
        shutil.copy(anat / "sub-01_T1w.nii.gz", anat / name)
    with pytest.raises(InputError, match="has 3 faults") as caught:
        jobs_of(root)
    told = "\n".join(caught.value.more)
    assert "sub-02_T1w.nii.gz is no name in BIDS; it begins with sub-01_" in told
    assert "sub-01_T1w.nii.gz and sub-01_T1w.nii are one scan; remove one" in told


def test_warnings(root: Path) -> None:
    (root / "dataset_description.json").unlink()
    (root / "sub-04").mkdir()
    lines: list[str] = []
    jobs = from_bids(root, root.parent / "mni.nii.gz", "MNI", {}, warn=lines.append)
    assert len(jobs) == 5
    assert "holds no dataset_description.json" in lines[0]
    assert lines[1].startswith("sub-04 holds no T1w image")
    with pytest.raises(InputError, match="sub-04 holds no T1w image"):
        jobs_of(root, "04")


def test_derivatives_among_the_scans_are_left_out(root: Path) -> None:
    anat = root / "sub-01/anat"
    names = [f"sub-01_{more}_T1w.nii.gz" for more in ("desc-preproc", "space-MNI_desc-brain")]
    for name in names:
        shutil.copy(anat / "sub-01_T1w.nii.gz", anat / name)
    lines: list[str] = []
    jobs = from_bids(root, root.parent / "mni.nii.gz", "MNI", {}, warn=lines.append)
    assert not {job.inputs.moving.name for job in jobs} & set(names)
    assert len(jobs) == 5
    assert lines == [
        f"{anat / names[0]} has desc-, as derivatives have; it is left out",
        f"{anat / names[1]} has space- and desc-, as derivatives have; it is left out",
    ]


def test_the_study_describes_itself(root: Path) -> None:
    study, jobs = root.parent / "study", jobs_of(root)
    outputs = targets(Wanted(study, keep=words_of("warped,fields"))).keys()
    describe(study, root, jobs, outputs, "MNI")
    about = json.loads((study / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Name"] == "hsyn"
    assert about["Name"] == "hsyn registrations of Old"
    assert about["SourceDatasets"] == [{"URL": root.as_uri(), "DOI": "doi:10.1/x"}]
    told = json.loads((study / "space-MNI_T1w.json").read_text())
    assert told["SpatialReference"] == "mni.nii.gz"
    assert told["SkullStripped"] is True
    assert not (study / "space-T1w_desc-MNI_T1w.json").exists()
    with (study / ".bidsignore").open("a") as stream:
        stream.write("mine.txt\n")
    before = {path.name: path.stat().st_mtime_ns for path in study.iterdir()}
    describe(study, root, jobs, outputs, "MNI")
    assert {path.name: path.stat().st_mtime_ns for path in study.iterdir()} == before
    assert "mine.txt" in (study / ".bidsignore").read_text().splitlines()


def test_other_datasets_stay_as_they_are(root: Path) -> None:
    jobs = jobs_of(root)
    before = (root / "dataset_description.json").read_bytes()
    with pytest.raises(UsageError, match="is the dataset of the scans itself"):
        describe(root, root, jobs, ["warped"], "MNI")
    study = root.parent / "fmriprep"
    study.mkdir()
    (study / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')
    with pytest.raises(OutputError, match="a dataset of another program"):
        describe(study, root, jobs, ["warped"], "MNI")
    assert (root / "dataset_description.json").read_bytes() == before


def test_the_validator_of_bids_is_content(root: Path) -> None:
    validator = shutil.which("bids-validator-deno") or shutil.which("bids-validator")
    if validator is None:
        pytest.skip("no validator of BIDS is installed (pip install bids-validator-deno)")
    study, jobs = root.parent / "study", jobs_of(root)
    everything = Wanted(study, midspace=True)
    describe(study, root, jobs, targets(everything).keys(), "MNI")
    for job in jobs:
        write(Wanted(study / job.folder, midspace=True, names=job.names), fake_result())
        (study / job.folder / job.names["thumbnail"]).write_bytes(b"png")
        job.status(study).parent.mkdir(exist_ok=True)
        job.status(study).write_text("{}")
    (study / "index.html").write_text("")
    (study / "cohort.csv").write_text("id\n")
    done = subprocess.run(
        [validator, str(study), "--json"], capture_output=True, text=True, timeout=300, check=False
    )
    found = json.loads(done.stdout)["issues"]["issues"]
    assert [(i["code"], i.get("location")) for i in found if i["severity"] == "error"] == []
    assert done.returncode == 0
