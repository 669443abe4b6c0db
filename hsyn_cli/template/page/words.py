"""The sentences and tables of the page, from the content of template.json. HTML is escaped."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from hsyn_cli.config.template import Settings
from hsyn_cli.results.page.tables import number, paste, table
from hsyn_cli.template.page import visits
from hsyn_cli.template.page.pictures import Volumes

Record = Mapping[str, Any]
NAMED = 6  # subjects in a sentence
UNKNOWN = "-"


def what(record: Record) -> str:
    """What the template is, in a sentence."""
    kind = "image" if record["channels"] == 1 else f"images of {record['channels']} channels"
    return (
        f"The mean {kind} of {len(record['subjects'])} subjects, in their mean shape. "
        "No subject is favoured."
    )


def doubts(record: Record) -> list[str]:
    """A sentence on the subjects left out, and one on those not to be trusted."""
    out = [entry["id"] for entry in record["left_out"]] + visits.left_out(record)
    doubtful = [entry["id"] for entry in record["subjects"] if entry["problems"]]
    doubtful += visits.doubtful(record)
    told = [("Left out", out), ("Not to be trusted", doubtful)]
    return [f"{head}: {_names(names)}." for head, names in told if names]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def headline(record: Record) -> str:
    """The verdict: who is missing or doubtful, how many rounds there were, and how they ended."""
    count, last = len(record["rounds"]), record["rounds"][-1]
    rounds = "1 round" if count == 1 else f"{count} rounds"
    made = f"Template of {len(record['subjects'])} subjects after {rounds}."
    return " ".join([*doubts(record), made, _ended(record, last), *_warned(record)])


def _ended(record: Record, last: Record) -> str:
    change, least = (percent(v) for v in (last["change"], record["settings"]["tolerance"]))
    if record["ended"] == "tolerance":
        return f"It has converged: the last round changed it by {change}, less than {least}."
    if len(record["rounds"]) == 1:
        return f"The round changed it by {change}; one round cannot tell whether it has converged."
    if not record["settings"]["tolerance"]:
        return f"The last round changed it by {change}."
    more = "that was the last one allowed, and more rounds may sharpen it"
    return f"It still changed by {change} in the last round, not less than {least}; {more}."


def _warned(record: Record) -> list[str]:
    count = len(record["warnings"])
    return [f"{count} warning{'s' if count > 1 else ''}, below."] if count else []


def percent(share: float) -> str:
    """A share with two digits and its sign."""
    return f"{number(100 * share)} %"


def channels(record: Record) -> str:
    """The choice of a channel; nothing for one."""
    if record["channels"] == 1:
        return ""
    values = [("all", "All"), *((str(k), str(k)) for k in range(1, record["channels"] + 1))]
    labels = "".join(
        f'<label><input type="radio" name="channel" value="{value}"'
        f"{' checked' if value == 'all' else ''}><span>{text}</span></label>"
        for value, text in values
    )
    return f'<fieldset class="choice small"><legend>Channel</legend>{labels}</fieldset>'


def caption(record: Record, shown: Volumes) -> str:
    """What the slices show."""
    ranges = [f"{number(low, 4)} to {number(high, 4)}" for low, high in shown.windows]
    several = len(ranges) > 1
    white = (
        "; ".join(f"channel {k}: {v}" for k, v in enumerate(ranges, 1)) if several else ranges[0]
    )
    unit = " HU" if record["scale"]["hounsfield"] else ""
    return (
        f"Sampled every {number(shown.grid.spacing[0], 3)} mm. Black to white: {white}{unit}. The "
        "outline is that of template_mask.nii.gz, in which at least half of the subjects lie."
    )


def stage_names(record: Record) -> dict[str, str]:
    """{stage: its name in words} of the last affine pass and the rounds."""
    frame = record["frame"][-1]["stage"]
    rounds = {entry["stage"]: f"Round {entry['round']}" for entry in record["rounds"]}
    return {frame: f"After the {record['settings']['frame']} passes", **rounds}


def stages(record: Record) -> str:
    """The table of all stages."""
    end = {
        "stage": "subjects' files",
        "subjects": len(record["subjects"]),
        "doubtful": [entry["id"] for entry in record["subjects"] if entry["problems"]],
        "left_mm": record["left_mm"],
        "sharpness": record["sharpness"],
        "seconds": record["finish_seconds"],
    }
    rows = [
        (
            entry["stage"], entry["subjects"], len(entry["doubtful"]), entry.get("preset", UNKNOWN),
            percent(entry["change"]) if "change" in entry else UNKNOWN,
            *(_length(entry.get(key)) for key in ("mean_displacement_mm", "left_mm")),
            number(entry["sharpness"], 3), f"{entry['seconds']:.0f} s",
        )
        for entry in (*record["frame"], *record["rounds"], end)
    ]  # fmt: skip
    head = ("stage", "subjects", "doubtful", "preset", "change", "mean displacement taken out",
            "left", "sharpness", "time")  # fmt: skip
    return table("All stages", head, rows)


def _length(value: float | None) -> str:
    return UNKNOWN if value is None else f"{number(value)} mm"


def use(out: str) -> str:
    """Lines that use the template."""
    place = shlex.quote(out)
    new = f"hsyn register -m new.nii.gz -f {place}/template.nii.gz -o new/"
    return paste("Register a new scan to it", new)


def again(record: Record, out: str) -> str:
    """The list of the scans, and the command that makes the template of it."""
    name, flag = (
        ("subjects.csv", ["--longitudinal"]) if "longitudinal" in record else ("scans.csv", [])
    )
    command = shlex.join(["hsyn", "template", *flag, name, "-o", out, *options(record)])
    return (
        f"{paste('The command', command)}<details><summary>{name}, the list of its scans"
        f"</summary>{paste(name, scans(record))}</details>"
    )


def options(record: Record) -> list[str]:
    """The options of the command that differ from the usual ones, and the threads."""
    usual, used = Settings(), record["settings"]
    found: list[str] = []
    for name in (field.name for field in fields(Settings)):
        if used.get(name, getattr(usual, name)) == getattr(usual, name):
            continue
        flag = f"--{name.replace('_', '-')}"
        found += [flag] if used[name] is True else [flag, f"{used[name]}"]
    return [*found, "--threads", str(used["threads"])]


def scans(record: Record) -> str:
    """The scans in the template as the list that `hsyn template` reads."""
    named = _named(record)
    masked = any(entry.get("mask") for _, entry in named)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    channels = (f"scan_{k}" for k in range(2, record["channels"] + 1))
    writer.writerow([*named[0][0], "scan", *channels, *(["mask"] * masked)])
    for names, entry in named:
        writer.writerow([*names.values(), *entry["scans"], *([entry["mask"]] if masked else [])])
    return stream.getvalue().rstrip("\n")


def _named(record: Record) -> list[tuple[dict[str, str], Record]]:
    """What a list calls each scan, {column: name}, and its entry: of each visit, if there are."""
    if "longitudinal" not in record:
        entries = sorted(record["subjects"], key=lambda entry: str(entry["id"]))
        return [({"id": entry["id"]}, entry) for entry in entries]
    return [
        ({"subject": subject["subject"], "visit": visit["visit"]}, visit)
        for subject in record["longitudinal"]["subjects"]
        for visit in subject["visits"]
    ]


def all_tables(record: Record) -> str:
    """Settings, grid and files, versions."""
    grid, scale = record["grid"], record["scale"]
    dimension = grid["dimension"]
    low, high = (number(scale[end] or 0.0, 3) for end in ("low", "high"))
    ends = f"{low} and {high} at a scan's dark and bright end"
    place = {
        "size": " x ".join(str(n) for n in grid["size"][:dimension]),
        "voxel": f"{number(grid['spacing'][0], 3)} mm",
        "grey values": "Hounsfield units" if scale["hounsfield"] else ends,
    }
    files = [*record["outputs"].values(), "template.json"]
    outputs = [(file, _told(file)) for file in files]
    outputs += [(f"subjects/ID/{name}", told) for name, told in OF_A_SUBJECT.items()]
    if "longitudinal" in record:
        outputs += [(f"visits/SUBJECT/VISIT/{name}", told) for name, told in OF_A_VISIT.items()]
    return (
        table("Settings", ("", ""), _settings(record))
        + table("Grid of the template", ("", ""), place.items())
        + table("Files beside this page", ("", ""), outputs)
        + table("Versions", ("", ""), record["versions"].items())
    )


OF_A_SUBJECT = {
    "forward_field.nii.gz": "on the template's grid: brings the scan to the template",
    "inverse_field.nii.gz": "on the scan's grid: brings the template to the scan",
    "affine.mat": "the affine map nearest to the forward field",
    "warped.nii.gz": "the scan in template space",
    "log_jacobian.nii.gz": "logarithm of the forward field's determinant",
}
OF_A_VISIT = {
    "forward_field.nii.gz": "on the template's grid: brings the visit to the template",
    "inverse_field.nii.gz": "on the visit's grid: brings the template to the visit",
    "warped.nii.gz": "the visit in template space",
    "total_log_jacobian.nii.gz": "the visit against the template",
    "within_log_jacobian.nii.gz": "its change against the subject's mean, on the template's grid",
}


def _told(file: str) -> str:
    if file.endswith(".json"):
        return "all settings and numbers"
    return "the mask" if "mask" in file else "the template"


def _settings(record: Record) -> Iterable[tuple[str, str]]:
    for name, value in record["settings"].items():
        text = (
            {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else value
        )
        yield name.replace("_", " "), "the median of the scans" if value is None else str(text)
