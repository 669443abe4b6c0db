"""What goes to a worker and what comes back, both ready for JSON."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsyn_cli.cohort.jobs import Job
from hsyn_cli.io import checkpoints
from hsyn_cli.results.register_files import Inputs
from hsyn_cli.results.run_folder import Wanted

LOGS = "logs"  # folder in the study folder


def wanted_of(
    folder: Path, inputs: Inputs, options: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[Wanted, dict[str, Any]]:
    """The files that a pair gets, and those of its options that are of `register_files`."""
    of_files = {field.name for field in dataclasses.fields(Wanted)}
    own = {name: value for name, value in options.items() if name in of_files}
    if own.get("keep") is not None:
        own["keep"] = frozenset(own["keep"])
    labels, channels = inputs.moving_labels is not None, 1 + len(inputs.others)
    wanted = Wanted(folder, labels=labels, channels=channels, names=names, **own)
    return wanted, {name: value for name, value in options.items() if name not in own}


@dataclass(frozen=True)
class Task:
    """One attempt at a pair. All paths are absolute.

    Attributes:
        options: further arguments of `register_files`, and of `Wanted`.
        log: file of what its worker prints.
    """

    id: str
    study: str
    folder: str
    log: str
    inputs: Mapping[str, str]
    others: Sequence[Sequence[str]]
    options: Mapping[str, Any]
    names: Mapping[str, str]

    @classmethod
    def of(cls, job: Job, study: Path, **settings: Any) -> Task:
        """The task of a job, with these settings in place of its own."""
        roles = {k: v for k, v in vars(job.inputs).items() if k != "others" and v is not None}
        place = study.absolute()
        options = {**job.options, **settings}
        model = Path(str(options.get("model", "")))
        if model.suffix == checkpoints.SUFFIX and model.is_file():  # a name has no such ending
            options["model"] = str(model.absolute())
        return cls(
            job.id,
            str(place),
            str(place / job.folder),
            str(place / LOGS / f"{job.id}.log"),
            {role: str(path.absolute()) for role, path in roles.items()},
            [[str(path.absolute()) for path in pair] for pair in job.inputs.others],
            options,
            dict(job.names),
        )

    def register_inputs(self) -> Inputs:
        """The files of the registration."""
        named = {role: Path(path) for role, path in self.inputs.items()}
        others = tuple((Path(moving), Path(fixed)) for moving, fixed in self.others)
        return Inputs(**named, others=others)

    def plain(self) -> dict[str, Any]:
        """Its content for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What became of a task. See `Status`.

    Attributes:
        exit_code: as of `hsyn register`; 124 if it took too long; 128 + number of the signal that
            ended the worker.
        limit: seconds (124) or MB (8) of the `Limits` that ended it; None: something else did.
        left: the device that the pair left for the CPU, and why; "" if it did not.
    """

    exit_code: int = 0
    error: str = ""
    problems: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_memory_mb: float | None = None
    limit: float | None = None
    left: str = ""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Outcome:
        """The outcome in a worker's answer."""
        many = {name: tuple(plain[name]) for name in ("problems", "files")}
        return cls(**{**plain, **many})


@dataclass(frozen=True)
class Event:
    """News of a task: how far it is, or its outcome."""

    id: str
    step: str = ""
    fraction: float = field(default=0.0)
    outcome: Outcome | None = None


def free_log(path: Path) -> None:
    """Remove a log in which nothing was written."""
    with contextlib.suppress(OSError):
        if not path.stat().st_size:
            path.unlink()
