"""The subjects' own templates: of each one's visits, by the same code as the group's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hsyn_cli import __version__
from hsyn_cli.cohort.drivers import Driver, Others
from hsyn_cli.cohort.shards import Shard
from hsyn_cli.errors import BatchError, HsynError
from hsyn_cli.io import atomic
from hsyn_cli.io.plain import dump
from hsyn_cli.template import record
from hsyn_cli.template.build import build
from hsyn_cli.template.pairs import wait_beside
from hsyn_cli.template.run import Run
from hsyn_cli.template.stages import WITHIN, WORK, key_of, mean_name
from hsyn_cli.template.subjects import Subject, named
from hsyn_cli.template.visits import Person


@dataclass(frozen=True)
class Study:
    """All subjects, and what became of their own templates.

    Attributes:
        run: without subjects. failed: {id: what left_out tells}. keys: {id: key of its template}.
    """

    people: Sequence[Person]
    run: Run
    failed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def mine(self) -> list[Person]:
        """Those of this shard."""
        shard = self.run.work.shard
        return list(self.people[shard.index - 1 :: shard.count])

    @property
    def signs(self) -> Path:
        """The folder that tells shards of one another, and which subjects' templates stand."""
        return self.run.out / WORK / WITHIN

    def template(self, person: Person) -> Path:
        """The folder of a subject's own template."""
        return self.run.out / WITHIN / person.id

    def means(self) -> list[Subject]:
        """The subjects of the group's template: each one's own template, or its only scan."""
        return named([self._mean(person) for person in self.people if person.id in self.keys])

    def _mean(self, person: Person) -> Subject:
        only = person.visits[0]
        if len(person.visits) == 1:
            return replace(only, id=person.id, sha256=())
        folder = self.template(person)
        scans = (folder / mean_name(k, "template") for k in range(1, len(only.scans) + 1))
        mask = None if only.mask is None else folder / record.MASK
        return Subject(person.id, tuple(scans), mask)

    def wanted(self, person: Person) -> str:
        """What decides a subject's own template."""
        hashes = self.run.hashes
        masks = [v.mask and hashes.of_image(v.mask, "mask") for v in person.visits]
        scans = [[v.id, v.sha256, mask] for v, mask in zip(person.visits, masks, strict=True)]
        settings, threads = self.run.settings.within.plain(), self.run.work.threads_each
        return key_of({"s": scans, "o": settings, "threads": threads, "version": __version__})


def own_templates(its: Study, others: Others) -> Study:
    """The subjects' own templates: those of this shard are made, the others waited for.

    `others`: the shards that live. Raises BatchError if one fails and is not to be left out.
    """
    run = its.run
    found: dict[str, Mapping[str, Any]] = {}
    for number, person in enumerate(its.people, 1):
        if person in its.mine:
            told = f"{person.id} ({number} of {len(its.people)})"
            found[person.id] = _own_template(its, person, told)
    theirs = [person for person in its.people if person.id not in found]

    def over() -> bool:
        signs = {person.id: sign(its, person, others) for person in theirs}
        found.update({name: told for name, told in signs.items() if told is not None})
        return all(told is not None for told in signs.values())

    if not over():
        run.tell.stage("waiting for the other shards")
        wait_beside(others, WITHIN, over)
    failed = {name: sign["failed"] for name, sign in found.items() if sign["failed"]}
    if failed and not run.settings.leave_out:  # in another shard
        first, told = next(iter(failed.items()))
        raise BatchError(f"{first}: {told['error']}", "see what its shard told")
    return replace(its, failed=failed, keys={n: s["key"] for n, s in found.items() if s["key"]})


def _own_template(its: Study, person: Person, told: str) -> Mapping[str, Any]:
    """Make the template of a subject's visits, and its sign. Raises BatchError and others."""
    run, failed, key = its.run, None, None
    if len(person.visits) == 1:
        key = key_of(person.visits[0].sha256)
    else:
        tell = replace(run.tell, stage=lambda text: run.tell.stage(f"{told}: {text}"))
        alone = replace(run.work, shard=Shard())
        try:
            made = build(person.visits, its.template(person), run.settings.within, alone, tell)
            key = str(made.record["key"])
        except BatchError as error:
            failed = {"exit_code": error.exit_code, "error": error.message}
            if not run.settings.leave_out:
                raise BatchError(f"{person.id}: {error.message}", error.hint) from error
    driver = asdict(Driver.here(run.work.shard))
    content = {"wanted": its.wanted(person), "key": key, "failed": failed, "driver": driver}
    atomic.write_text(its.signs / f"{person.id}.json", dump(content))
    return content


def sign(its: Study, person: Person, others: Others) -> Mapping[str, Any] | None:
    """What its shard wrote when the subject's own template stood, or failed.

    Where failed ones run again, a failure counts only if the shard that tells of it lives: another
    run may have left it, and the shard may be about to try again.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, HsynError):
        text = (its.signs / f"{person.id}.json").read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)
        own = record.read(its.template(person)) if len(person.visits) > 1 else None
        stands = own is None or own["key"] == found["key"]
        if found["failed"]:
            living = [asdict(driver) for driver in others.living()]
            stands = not its.run.work.again or found["driver"] in living
        if found["wanted"] == its.wanted(person) and stands:
            return found
    return None
