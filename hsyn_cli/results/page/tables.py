"""The sentences and tables of the page, made from the content of report.json. HTML is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
LONG = ' class="long"'  # a cell that may break anywhere
SIDES = {"forward": "folding", "inverse": "inverse_folding"}


def escaped(text: str) -> str:
    return html.escape(text, quote=True)


def verdict(report: Report) -> tuple[bool, str]:
    """True if nothing folds and nothing speaks against the result, and the sentences on it."""
    counts = {side: report[key]["voxels"] for side, key in SIDES.items()}
    if not any(counts.values()):
        folding = "No voxel folds."
    else:
        shares = [
            f"{count} {'voxel' if count == 1 else 'voxels'} of the {side} field "
            f"({report[SIDES[side]]['percent']:.2g} %)"
            for side, count in counts.items()
            if count
        ]
        folding = f"Folding: {' and '.join(shares)}."
    problems = report.get("problems", ())
    doubt = "".join(f"Do not trust this result: {problem}. " for problem in problems)
    good = not any(counts.values()) and not problems
    error = report["inverse_error_fixed"]
    if error["mean_mm"] is None:
        return good, f"{doubt}{folding} The inverse error could not be measured."
    exact = (
        f"Inverse error mean {number(error['mean_mm'])} mm, largest {number(error['max_mm'])} mm."
    )
    return good, f"{doubt}{folding} {exact}"


def number(value: float | None, digits: int = 2) -> str:
    """Format with that many significant digits, never in powers of ten."""
    if value is None:
        return "not known"
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{value:.6f}".rstrip("0") if "e-" in text else f"{value:.0f}" if "e" in text else text


def folds(report: Report, marked: int) -> str:
    """The legend for folded voxels of the forward field, `marked` of them on the page's grid."""
    count = report["folding"]["voxels"]
    if not count:
        return "A voxel that folds would be magenta with a white frame; there is none."
    outside = count - marked
    rest = f", {outside} outside the part shown" if outside > 0 else ""
    return f"Magenta with a white frame: voxels that fold ({marked} here{rest})."


def windows(ranges: Mapping[str, tuple[float, float]]) -> str:
    """The legend for the intensities of the pictures."""
    fixed, moving = (
        f"{number(low, 4)} to {number(high, 4)}"
        for low, high in (ranges["fixed"], ranges["moving"])
    )
    return f"Black to white: {fixed} in the fixed image, {moving} in the moving and the warped one."


def warnings(report: Report) -> str:
    """The warnings as a list."""
    rows = "".join(f"<li>{escaped(line)}</li>" for line in report["warnings"])
    return f'<ul class="warnings">{rows}</ul>' if rows else ""


def all_tables(report: Report) -> str:
    """All tables: quality first, then settings of the run, then files."""
    fold = [report[key] for key in SIDES.values()]
    places = [", ".join(number(v, 4) for v in f["min_det_at_mm"]) for f in fold]
    errors = [report[f"inverse_error_{side}"] for side in ("fixed", "moving")]
    keys = ("mean_mm", "p99_mm", "max_mm")
    seconds = {**report["seconds"], "whole command": report["seconds_total"]}
    memory = report["peak_memory_mb"]
    run = {
        "preset": report["preset"],
        "smoothness": report.get("smoothness", 1.0),
        **({"head": "brain"} if report.get("head") == "brain" else {}),
        "transform": report.get("transform", "deformable"),
        "first step": report["affine"],
        **weights(report["checkpoint"]),
        "device": report["device"],
        "threads": report["threads"],
        "seed": report["seed"],
        **on_disk(report.get("stored", {})),
        "peak memory": "not known" if memory is None else f"{memory / 1000:.2f} GB",
        **report["versions"],
    }
    return "".join(
        (
            table(
                "Folding (determinant ≤ 0)",
                ("", "forward field", "inverse field"),
                (
                    ("voxels", *(f["voxels"] for f in fold)),
                    ("share", *(f"{number(f['percent'])} %" for f in fold)),
                    ("voxels by any of 8 corners", *(f["corner_voxels"] for f in fold)),
                    ("smallest determinant", *(number(f["min_det"], 3) for f in fold)),
                    ("at (mm, LPS)", *places),
                ),
            ),
            table(
                "Inverse error (mm)",
                ("over the content of", "mean", "99 % below", "largest"),
                (
                    (f"the {side} image", *(number(error[key], 3) for key in keys))
                    for side, error in zip(("fixed", "moving"), errors, strict=True)
                ),
            ),
            table(
                "Similarity",
                ("measure", "before", "after the affine step", "at the end"),
                [
                    (name, *(number(scores[k], 3) for k in ("before", "affine", "after")))
                    for name, scores in likeness(report)
                ],
            ),
            changes(report),
            table("Time (s)", ("step", "seconds"), ((k, f"{v:.2f}") for k, v in seconds.items())),
            table("Run", ("", ""), run.items()),
            table(
                "Inputs",
                ("", "file", "SHA-256"),
                (
                    (name, f"{v['path']}{', inverted' * v.get('inverse', False)}", v["sha256"])
                    for name, v in report["inputs"].items()
                ),
            ),
            table("Outputs", ("", "file"), report["outputs"].items()),
        )
    )  # fmt: skip


def weights(used: Mapping[str, Any]) -> dict[str, str]:
    """The rows of the checkpoint that ran."""
    unknown = "" if used["verified"] else " (not in a manifest)"
    return {"weights": f"{used['name']}{unknown}", "SHA-256 of the weights": used["sha256"] or "-"}


def on_disk(stored: Mapping[str, Any]) -> dict[str, str]:
    """The rows on fields and images that were saved at; none if they are as computed."""
    rows = {}
    if stored.get("field_spacing_mm"):
        rows["vectors on disk"] = f"every {number(stored['field_spacing_mm'], 3)} mm"
    for name, error in stored.get("field_errors", {}).items():
        off = f"{number(error['mean_mm'])} mm on average, {number(error['max_mm'])} at most"
        rows[f"{name.replace('_', ' ')} on disk"] = f"off by {off}"
    for name, percent in stored.get("largest_error_percent", {}).items():
        off = f"{number(percent)} % of its range at most"
        rows[f"{name.replace('_', ' ')} on disk"] = f"off by {off}"
    return rows


def likeness(report: Report) -> list[tuple[str, Mapping[str, float]]]:
    """The measures of how alike the images are, with their names."""
    found = [(report["similarity"]["measure"], report["similarity"])]
    names = {"information": "mutual information", "overlap": "overlap of the contents"}
    return found + [(name, report[key]) for key, name in names.items() if key in report]


def changes(report: Report) -> str:
    """The table of what the affine and the forward field do, if the report knows it."""
    linear, change = report.get("linear"), report.get("change")
    if not linear or not change:
        return ""
    scales, moved = (
        ", ".join(number(v, 3) for v in linear[key]) for key in ("scales", "translation_mm")
    )
    rows = {
        "affine, scales (x, y, z)": scales,
        "affine, rotation": f"{number(linear['rotation_degrees'], 3)}°",
        "affine, largest shear": number(linear["shear"], 2),
        "affine, translation (mm, LPS)": moved,
        "displacement beside it, mean": f"{number(change['mean_mm'], 3)} mm",
        "displacement beside it, largest": f"{number(change['max_mm'], 3)} mm",
        "log of the determinant, mean": number(change["log_det_mean"], 3),
        "log of the determinant, SD": number(change["log_det_sd"], 3),
    }
    return table("Change, over the content of the fixed image", ("", ""), rows.items())


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Make a table. The first cells are row headers; a head of empty texts is omitted."""
    top = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escaped(str(first))}</th>'
        + "".join(
            f"<td{LONG if len(str(cell)) > 24 else ''}>{escaped(str(cell))}</td>" for cell in cells
        )
        + "</tr>"
        for first, *cells in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escaped(caption)}">'
        f"<table><caption>{escaped(caption)}</caption>{thead}<tbody>{body}</tbody></table></div>"
    )


def lines_to_paste(report: Report) -> str:
    """Make one block per program, with a button that copies it."""
    if not report["apply"]:
        return "<p>No field was kept that could be applied.</p>"
    return "<p>Lines to paste; each warps the moving image onto the fixed one.</p>" + "".join(
        paste(program, line) for program, line in report["apply"].items()
    )


def paste(name: str, text: str) -> str:
    """A block of text under a heading, with a button that copies it."""
    return (
        f"<h3>{escaped(name)}</h3>"
        f'<div class="paste"><pre>{escaped(text)}</pre>'
        '<button type="button" class="copy">Copy</button></div>'
    )
