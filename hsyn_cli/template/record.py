"""The template's own files and its record, template.json; see the package for what that holds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hsyn_cli.io import atomic
from hsyn_cli.io.plain import dump
from hsyn_cli.io.writing import write_image
from hsyn_cli.results.record import SCHEMA_VERSION, record
from hsyn_cli.template import averages
from hsyn_cli.template.finish import ENTRY, FILES, SUBJECTS, Finished
from hsyn_cli.template.run import Run
from hsyn_cli.template.scans import HIGH, LOW, load
from hsyn_cli.template.stages import Stage, mean_name
from hsyn_cli.template.subjects import Subject

TEMPLATE, MASK, RECORD = "template.nii.gz", "template_mask.nii.gz", "template.json"
OF_A_STAGE = ("key", "files", "left_out", "hulls")  # entries of stage.json that are not told


def read(out: Path) -> Mapping[str, Any] | None:
    """The record in a folder; None if there is none of this version."""
    try:
        found: dict[str, Any] = json.loads((out / RECORD).read_text(encoding="utf-8"))
        return found if found["schema_version"] == SCHEMA_VERSION else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def known(out: Path) -> bool:
    """Whether a folder holds a template of hsyn."""
    found = read(out)
    return found is not None and "subjects" in found and "rounds" in found


def find(run: Run, key: str) -> Mapping[str, Any] | None:
    """The record of a finished template with this key, if all its files are there."""
    found = read(run.out)
    if found is None or found.get("key") != key:
        return None
    return found if all((run.out / file).is_file() for file in _files(found)) else None


def retell(run: Run, found: Mapping[str, Any], ended: str) -> Mapping[str, Any]:
    """The record with the settings of this run, if they end with the same files; written anew."""
    settings = {**found["settings"], **run.settings.plain()}
    if (found["settings"], found["ended"]) == (settings, ended):
        return found
    told = {**found, "settings": settings, "ended": ended}
    atomic.write_text(run.out / RECORD, dump(told))
    out: Mapping[str, Any] = json.loads(dump(told))
    return out


def _files(found: Mapping[str, Any]) -> set[str]:
    """All files that a record names."""
    of_subjects = {f for entry in found["subjects"] for f in entry["outputs"].values()}
    return {*found["outputs"].values(), *of_subjects}


def write(
    run: Run,
    stages: Sequence[Stage],
    done: Finished,
    key: str,
    ended: str,
    warnings: Sequence[str],
    seconds: float,
) -> Mapping[str, Any]:
    """Write the template, its mask and the record together; returns the record."""
    grid, means = stages[-1].grid, done.means
    names = {f"template_{k}" if k > 1 else "template": mean_name(k, "template")
             for k in range(1, run.channels + 1)}  # fmt: skip
    outputs = {**names, "mask": MASK}
    amount = run.settings.sharpen
    images = [averages.sharpened(values, amount) for values in means.images]
    grey = load(run.subjects[0]).channels[0].grey
    of_rounds = [_told(stage) for stage in stages if "round" in stage.entry]
    plain = {
        "key": key,
        "settings": {**run.settings.plain(), "threads": run.work.threads_each},
        "grid": asdict(grid),
        "scale": {
            "hounsfield": grey.hounsfield,
            "low": None if grey.hounsfield else LOW,
            "high": None if grey.hounsfield else HIGH,
        },
        "channels": run.channels,
        "outputs": outputs,
        "subjects": [
            _subject(subject, entry, stages[-1])
            for subject, entry in zip(run.subjects, done.entries, strict=True)
        ],
        "left_out": [dict(entry) for stage in stages for entry in stage.left_out],
        "frame": [_told(stage) for stage in stages if "round" not in stage.entry],
        "rounds": of_rounds,
        "ended": ended,
        "left_mm": done.left_mm,
        "sharpness": averages.sharpness(images[0], means.mask, grid),
        "finish_seconds": seconds,
    }
    paths = {name: run.out / file for name, file in outputs.items()}
    target = run.out / RECORD
    with atomic.claim([*paths.values(), target], force=True) as staging:
        for name, values in zip(names, images, strict=True):
            write_image(averages.to_image(values, grid), staging.path(paths[name]))
        mask = averages.to_image(means.mask.astype(np.uint8), grid)
        write_image(mask, staging.path(paths["mask"]))
        text = record(plain, warnings)
        atomic.write_text(staging.path(target), text)
        out: Mapping[str, Any] = json.loads(text)
        _forget(run.out, _stale(run.out, out))
        staging.commit()
    return out


def _forget(out: Path, files: Iterable[str]) -> None:
    """Remove files, and their folders if they are empty then."""
    for path in (out / file for file in files):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()


def _stale(out: Path, new: Mapping[str, Any]) -> set[str]:
    """The files of the template before that the new one does not have, as of scans taken out."""
    old = read(out)
    if old is None or not known(out):
        return set()
    entries = {f"{SUBJECTS}/{of['id']}/{ENTRY}" for of in old["subjects"]}
    kept = {f"{SUBJECTS}/{of['id']}/{ENTRY}" for of in new["subjects"]}
    return (_files(old) | entries) - (_files(new) | kept)


def _told(stage: Stage) -> dict[str, Any]:
    """What template.json tells of a stage."""
    return {name: value for name, value in stage.entry.items() if name not in OF_A_STAGE}


def _subject(subject: Subject, entry: Mapping[str, Any], last: Stage) -> dict[str, Any]:
    files = {name: f"{SUBJECTS}/{subject.id}/{file}" for name, file in FILES.items()}
    return {
        "id": subject.id,
        "scans": [str(scan.absolute()) for scan in subject.scans],
        "sha256": list(subject.sha256),
        "mask": None if subject.mask is None else str(subject.mask.absolute()),
        "outputs": files,
        **{name: value for name, value in entry.items() if name not in ("id", "key")},
        "problems": last.entry["doubtful"].get(subject.id, []),
    }
