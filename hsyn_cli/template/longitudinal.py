"""A longitudinal template: each subject's own template of all visits, then the group's of those.

read -> the subjects' templates -> the group's template -> each visit's composed fields -> record.
A subject with one visit is its own template. All visits of a subject are treated alike.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from hsyn_cli.cohort.batch import Work
from hsyn_cli.cohort.drivers import Others, driving
from hsyn_cli.config.template import Settings
from hsyn_cli.io import atomic
from hsyn_cli.io.images import read_image
from hsyn_cli.io.plain import dump
from hsyn_cli.template import carry, finish, page, record, visits
from hsyn_cli.template.build import Template, build, check_folder
from hsyn_cli.template.carry import Carried
from hsyn_cli.template.pairs import wait_beside
from hsyn_cli.template.run import Run, Tell
from hsyn_cli.template.stages import VISITS, WITHIN, key_of
from hsyn_cli.template.subjects import refuse_inside, twins
from hsyn_cli.template.visits import Person
from hsyn_cli.template.within import Study, own_templates

SECTION = "longitudinal"  # of template.json


def longitudinal_files(
    table: Path,
    out: Path,
    settings: Settings | None = None,
    work: Work | None = None,
    tell: Tell | None = None,
) -> Template:
    """Make the template of a table of visits, see `visits.read`; or go on with it.

    Raises all `errors` but FoldingError and FailedError.
    """
    people = visits.read(table)
    refuse_inside([visit for person in people for visit in person.visits], out)
    check_folder(out)
    its = Study(people, Run((), out, settings or Settings(), work or Work(), tell or Tell()))
    with driving(its.signs, its.run.work.shard) as (_, others):
        its = own_templates(its, others)
        group = build(its.means(), out, its.run.settings, its.run.work, its.run.tell)
        return _carried(its, group, others)


def _carried(its: Study, group: Template, others: Others) -> Template:
    """Carry all visits to the group's template, and write that into its record."""
    run = its.run
    parts = list(_parts(its, group))
    lacking = [(entry["id"], entry["visit"]) for entry in _left_out(its)]
    key = key_of([group.record["key"], sorted(part.key for part in parts), lacking])
    found = group.record
    if found.get(SECTION, {}).get("key") == key and _all_there(run, found):
        return group
    mine = {person.id for person in its.mine}
    run.tell.stage("each visit's fields")
    with run.tell.steps() as step:
        own = [part for part in parts if part.person.id in mine]
        for k, part in enumerate(own):
            step(f"{part.person.id}, {part.its.visit.id}", k / len(own))
            carry.carry(part.its)

    def written() -> bool:
        there = record.read(run.out) or {}
        return bool(there.get(SECTION, {}).get("key") == key)

    if not run.leads:
        wait_beside(others, VISITS, written)
        return replace(group, record=record.read(run.out) or {}, before=False)
    wait_beside(others, VISITS, lambda: all(carry.entry_of(p.its.out, p.key) for p in parts))
    section = {"key": key, **_section(its, parts, found)}
    _forget_others(run.out, parts)
    plain = {**found, SECTION: section, "warnings": _warnings(its, found["warnings"])}
    atomic.write_text(run.out / record.RECORD, dump(plain))
    told = json.loads(dump(plain))
    run.tell.stage("the page")
    with run.tell.steps() as step:
        page.write(run.out, told, step)
    return replace(group, record=told, before=False)


@dataclass(frozen=True)
class _Part:
    """A visit in the group's template. `told`: its entry in the subject's own template."""

    person: Person
    its: Carried
    told: Mapping[str, Any] | None

    @property
    def key(self) -> str:
        """Of its files."""
        return self.its.key


def _parts(its: Study, group: Template) -> Iterator[_Part]:
    out = its.run.out
    mask = read_image(out / group.record["outputs"]["mask"], "mask of the template").image
    inside = np.asarray(sitk.GetArrayViewFromImage(mask) > 0)
    there = {subject["id"] for subject in group.record["subjects"]}
    for person in its.people:
        if person.id not in there:
            continue
        folder = its.template(person)
        own = record.read(folder) if len(person.visits) > 1 else None
        told = {entry["id"]: entry for entry in own["subjects"]} if own else {}
        for visit in person.visits:
            if own and visit.id not in told:
                continue  # left out
            within = folder / finish.SUBJECTS / visit.id if own else None
            key = key_of([group.record["key"], its.keys[person.id], visit.id, visit.sha256])
            place = out / VISITS / person.id / visit.id
            of_group = out / finish.SUBJECTS / person.id
            carried = Carried(visit, of_group, within, place, inside, key)
            yield _Part(person, carried, told.get(visit.id))


def _section(its: Study, parts: Sequence[_Part], group: Mapping[str, Any]) -> dict[str, Any]:
    """What template.json tells of the visits; see the package."""
    subjects: dict[str, dict[str, Any]] = {}
    for part in sorted(parts, key=lambda part: (part.person.id, part.its.visit.id)):
        person = part.person
        own = f"{WITHIN}/{person.id}/template.nii.gz" if part.told else None
        entry: dict[str, Any] = {
            "id": person.id,
            "subject": person.subject,
            "template": own,
            "visits": [],
        }
        subjects.setdefault(person.id, entry)["visits"].append(_visit(part, group))
    settings = its.run.settings.within.plain()
    told = list(subjects.values())
    return {"settings": settings, "subjects": told, "left_out": _left_out(its)}


def _left_out(its: Study) -> list[dict[str, Any]]:
    """What failed: whole subjects, whose visit is None, and visits of the others."""
    out = [{"id": name, "visit": None, **told} for name, told in its.failed.items()]
    for person in its.people:
        own_record = record.read(its.template(person)) if len(person.visits) > 1 else None
        lost = own_record["left_out"] if own_record and person.id in its.keys else []
        out += [
            {"id": person.id, "visit": entry["id"],
             **{k: v for k, v in entry.items() if k in ("stage", "exit_code", "error")}}
            for entry in lost
        ]  # fmt: skip
    return out


def _forget_others(out: Path, parts: Sequence[_Part]) -> None:
    """Remove the files of visits that are in the table no more: their template is another one."""
    wanted = {part.its.out.resolve() for part in parts}
    for entry in (out / VISITS).glob(f"*/*/{carry.ENTRY}"):
        if entry.parent.resolve() not in wanted:
            shutil.rmtree(entry.parent, ignore_errors=True)


def _visit(part: _Part, group: Mapping[str, Any]) -> dict[str, Any]:
    """What template.json tells of a visit. `group`: the record of the group's template."""
    visit, place = part.its.visit, f"{VISITS}/{part.person.id}/{part.its.visit.id}"
    entry = carry.entry_of(part.its.out, part.key) or {}
    told = part.told or {}
    names = ("displacement_mm", "log_det_mean", "log_det_sd", "correlation", "problems")
    within = {name: told[name] for name in names if name in told}
    if part.told:
        folder = f"{WITHIN}/{part.person.id}/"
        within["outputs"] = {name: folder + file for name, file in told["outputs"].items()}
    of_group = next(one for one in group["subjects"] if one["id"] == part.person.id)
    doubts = [*told.get("problems", ()), *of_group["problems"]]
    return {
        "id": visit.id,
        "visit": part.person.names[visit.id],
        "scans": [str(scan.absolute()) for scan in visit.scans],
        "sha256": list(visit.sha256),
        "mask": None if visit.mask is None else str(visit.mask.absolute()),
        "within": within or None,
        "outputs": {name: f"{place}/{file}" for name, file in carry.FILES.items()},
        **{name: value for name, value in entry.items() if name != "key"},
        "problems": [*doubts, *carry.problems(entry, min(group["grid"]["spacing"]))],
    }


def _warnings(its: Study, found: Sequence[str]) -> list[str]:
    """Those of the group's and the subjects' own templates, one scan alone, scans given twice."""
    single = [person.id for person in its.people if len(person.visits) == 1]
    text = "has one scan, which is its own template; its change within the subject is 0"
    lines = [*found, *(f"{name} {text}" for name in single)]
    for person in its.people:
        own = record.read(its.template(person)) if len(person.visits) > 1 else None
        lines += [f"{person.id}: {line}" for line in (own["warnings"] if own else ())]
    everybody = [replace(v, id=f"{p.id} {v.id}") for p in its.people for v in p.visits]
    lines += twins(sorted(everybody, key=lambda visit: visit.sha256))
    return list(dict.fromkeys(lines))


def _all_there(run: Run, found: Mapping[str, Any]) -> bool:
    """Whether the files of all visits are there."""
    files = [
        file
        for subject in found[SECTION]["subjects"]
        for visit in subject["visits"]
        for file in visit["outputs"].values()
    ]
    return all((run.out / file).is_file() for file in files)
