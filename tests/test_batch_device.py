"""Workers share one device: as many pairs at a time as fit, and a full device is left once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk

from hsyn_cli.checks.trial import phantom
from hsyn_cli.cohort import page
from hsyn_cli.cohort import status as statuses
from hsyn_cli.cohort.jobs import Job
from hsyn_cli.cohort.sources import Limits
from hsyn_cli.cohort.sources.local import LocalWorkers
from hsyn_cli.cohort.supervisor import Supervisor
from hsyn_cli.results.register_files import Inputs

WORKER = str(Path(__file__).parent / "card_worker.py")
OPTIONS = {"preset": "fast", "model": "none", "affine": "rigid", "keep": []}


@pytest.mark.skipif(os.name != "posix", reason="needs locks of files")
def test_two_workers_share_a_device(tmp_path: Path) -> None:
    for name, bend in (("f", 0.0), ("m", 0.25)):
        sitk.WriteImage(phantom(bend)[0], str(tmp_path / f"{name}.nii.gz"))
    inputs = Inputs(tmp_path / "m.nii.gz", tmp_path / "f.nii.gz")
    jobs = [Job(name, inputs, f"pairs/{name}", OPTIONS) for name in "abcd"]
    source = LocalWorkers(2, Limits(), [sys.executable, WORKER, str(tmp_path)])
    tally = Supervisor(tmp_path / "study", jobs, source, threads=1).run()
    assert (tally.done, tally.moved, tally.failed) == (4, 1, [])
    words = (tmp_path / "device.txt").read_text().split()
    assert words == ["begun", "ended"] * 4  # never two at a time
    assert not list((tmp_path / "turns").iterdir())
    found = [statuses.read(job.status(tmp_path / "study")) for job in jobs]
    left = [status for status in found if status is not None and status.left]
    assert [status.left for status in left] == ["card ran out of memory"]
    report = json.loads((tmp_path / "study" / left[0].folder / "report.json").read_text())
    assert report["device"] == "cpu, since card ran out of memory"
    page.write(tmp_path / "study", jobs)
    text = (tmp_path / "study" / "index.html").read_text()
    assert "1 on the CPU for lack of memory on the device" in text
    assert "card ran out of memory" in text
