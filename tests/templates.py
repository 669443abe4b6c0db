"""A made-up finished template: its record, and the files that its page shows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from hsyn_cli.config.template import Settings
from hsyn_cli.template.page.pictures import shown

SIZE, VOXEL = (24, 28, 22), 4.0
OUTPUTS = ("forward_field.nii.gz", "inverse_field.nii.gz", "affine.mat", "warped.nii.gz",
           "log_jacobian.nii.gz")  # fmt: skip
FOLDING = {"voxels": 0, "percent": 0.0, "min_det": 0.5}


def head(size: tuple[int, ...] = SIZE, value: float = 100.0) -> sitk.Image:
    """An ellipsoid about 0, brighter to the left, the back and the head."""
    middle = [(n - 1) / 2 for n in size]
    axes = np.meshgrid(
        *(np.arange(n) - m for n, m in zip(size, middle, strict=True)), indexing="ij"
    )
    radius = np.sqrt(sum((x / (0.4 * n)) ** 2 for x, n in zip(axes, size, strict=True)))
    slope = 0.75 + 0.25 * sum(x / n for x, n in zip(axes, size, strict=True))
    image = sitk.GetImageFromArray((value * slope * (radius < 1)).T.astype(np.float32))
    image.SetSpacing([VOXEL] * len(size))
    image.SetOrigin([-VOXEL * m for m in middle])
    return image


def subject(name: str, distance: float, **more: Any) -> dict[str, Any]:
    """The entry of a subject that is that far from the template, mm."""
    errors = {"mean_mm": 0.01, "p99_mm": 0.05, "max_mm": 0.1}
    return {
        "id": name,
        "scans": [f"/scans/{name}.nii.gz"],
        "sha256": ["0"],
        "mask": None,
        "outputs": {file.partition(".")[0]: f"subjects/{name}/{file}" for file in OUTPUTS},
        "linear": {
            "scales": [1.1, 1.0, 0.9], "rotation_degrees": 3.0, "shear": 0.02,
            "translation_mm": [1.0, 2.0, 2.0],
        },
        "log_det_mean": -0.01, "log_det_sd": 0.1, "correlation": 0.95,
        "folding": FOLDING, "inverse_folding": FOLDING,
        "inverse_error_template": errors, "inverse_error_subject": errors,
        "displacement_mm": {"mean": distance, "max": 3 * distance},
        "problems": [],
        **more,
    }  # fmt: skip


def left_out(name: str) -> dict[str, Any]:
    """The entry of a subject that failed in the second round."""
    scans = [f"/scans/{name}.nii.gz"]
    return {"id": name, "scans": scans, "stage": "round-2", "exit_code": 4, "error": "no overlap"}


def record(count: int = 3, rounds: int = 2, **more: Any) -> dict[str, Any]:
    """The content of template.json; a last round that changed little."""
    entries = [subject(f"sub-{k:03}", 1.0 + 0.01 * k) for k in range(count)]
    stage = {"subjects": count, "doubtful": {}, "seconds": 9.6}
    frame = [{"stage": name, "sharpness": 3.0, "voxel": VOXEL, **stage}
             for name in ("start", "frame-1", "frame-2")]  # fmt: skip
    of_rounds = [
        {
            "stage": f"round-{k}", "round": k, "preset": "fast", **stage,
            "mean_displacement_mm": 1.0 / k, "left_mm": 0.001, "change": 0.03 / k,
            "sharpness": 4.0 - 1 / k, "displacements_mm": {e["id"]: 1.0 for e in entries},
        }
        for k in range(1, rounds + 1)
    ]  # fmt: skip
    return {
        "schema_version": 1,
        "key": "0123abcd",
        "settings": {**dataclasses.asdict(Settings()), "threads": 1},
        "grid": {"size": SIZE, "spacing": [VOXEL] * 3, "dimension": 3},
        "scale": {"hounsfield": False, "low": 0.0, "high": 100.0},
        "channels": 1,
        "outputs": {"template": "template.nii.gz", "mask": "template_mask.nii.gz"},
        "subjects": entries,
        "left_out": [],
        "frame": frame,
        "rounds": of_rounds,
        "ended": "tolerance" if rounds > 1 else "rounds",
        "left_mm": 0.012,
        "sharpness": 3.4,
        "finish_seconds": 4.0,
        "warnings": [],
        "versions": {"hsyn": "0.1.0"},
        **more,
    }


def write(out: Path, told: dict[str, Any], size: tuple[int, ...] = SIZE) -> Path:
    """The folder of a template with the files that its page shows."""
    out.mkdir(parents=True)
    for k in range(1, told["channels"] + 1):
        name = "template.nii.gz" if k == 1 else f"template_{k}.nii.gz"
        sitk.WriteImage(head(size, 100.0), str(out / name))
    inside = sitk.Cast(head(size) > 1, sitk.sitkUInt8)
    sitk.WriteImage(inside, str(out / told["outputs"]["mask"]))
    for k, stage in enumerate(shown(told)):
        place = out / "work" / stage
        place.mkdir(parents=True)
        sitk.WriteImage(head(size, 60.0 + 10 * k), str(place / "mean.nii.gz"))
    for entry in told["subjects"]:
        path = out / entry["outputs"]["warped"]
        path.parent.mkdir(parents=True)
        sitk.WriteImage(head(size), str(path))
    (out / "template.json").write_text(json.dumps(told), encoding="utf-8")
    return out
