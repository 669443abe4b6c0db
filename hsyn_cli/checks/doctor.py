"""`hsyn doctor`: what this installation is, and whether it works."""

from __future__ import annotations

import os
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hsyn_cli.checks import machine
from hsyn_cli.cohort.forecast import size_of
from hsyn_cli.devices import use_threads
from hsyn_cli.errors import HsynError, InstallationError
from hsyn_cli.io import checkpoints
from hsyn_cli.io.plain import dump
from hsyn_cli.results.record import SCHEMA_VERSION

Progress = Callable[[str, float], None]
LEAST_DISK_MB = 300.0  # free; the files of a pair of 1 mm brains take 130 MB
LEAST_MEMORY_MB = 1800.0  # free; a pair of 1 mm brains needs as much
DEVICE_MB = 1230.0  # what a pair of 1 mm brains needs on a GPU, see `method.memory`
COLUMNS = 79
AGAIN = "install hsyn again: pip install --force-reinstall hsyn"
SENTENCE = "Names of users are left out, and no data are named."


@dataclass(frozen=True)
class Finding:
    """One check: `what`, how it went in a line, and what to do about it ("": it went well)."""

    what: str
    text: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.advice


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found. `facts`: of the machine; values are text, numbers or None."""

    versions: Mapping[str, str]
    facts: Mapping[str, Any]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What is not well."""
        return tuple(finding for finding in self.findings if not finding.ok)

    def to_json(self) -> str:
        """Convert to JSON text."""
        findings = [{**vars(finding), "ok": finding.ok} for finding in self.findings]
        head = {"schema_version": SCHEMA_VERSION, "ok": not self.wrong, "seconds": self.seconds}
        told = {"findings": findings, "machine": dict(self.facts), "versions": dict(self.versions)}
        return dump({**head, **told, "warnings": [line.text for line in self.wrong]})

    def text(self) -> str:
        """Plain lines of 80 columns at most, to paste into a report."""
        lines = [f"hsyn doctor ({self.seconds:.1f} s). {SENTENCE}", "", "versions"]
        lines += _wrapped(", ".join(f"{name} {version}" for name, version in self.versions.items()))
        lines += ["", "machine"]
        for name, value in self.facts.items():
            lines += _wrapped(
                f"{name.removesuffix('_mb').replace('_', ' ')}: {_shown(name, value)}"
            )
        lines += ["", "checks"]
        for finding in self.findings:
            state = "ok" if finding.ok else "WRONG"
            lines += _wrapped(f"{state:<6}{finding.what}: {finding.text}", " " * 8)
            lines += _wrapped(finding.advice and f"-> {finding.advice}", " " * 11, " " * 8)
        return "\n".join(lines) + "\n"

    def raise_wrong(self, shown: bool = False) -> None:
        """Raise InstallationError if something is not well.

        It names each thing and a remedy, unless the text was `shown`.
        """
        if self.wrong:
            more = [f"{one.what}: {one.text}; {one.advice}" for one in self.wrong]
            count = "one check" if len(more) == 1 else f"{len(more)} checks"
            hint = "see the lines above that say WRONG" if shown else ""
            raise InstallationError(f"{count} of hsyn doctor failed", hint, () if shown else more)


def doctor(progress: Progress = lambda step, fraction: None) -> Diagnosis:
    """Look at the libraries, the machine and the weights, and register two tiny phantoms.

    It takes five seconds at most on two cores, and raises nothing.
    """
    begun = time.monotonic()
    versions, facts = machine.versions(), machine.machine()
    findings: list[Finding] = [*_missing(versions)]
    steps: Sequence[tuple[str, Callable[[], Iterator[Finding]]]] = (
        ("libraries", lambda: _torch(facts)),
        ("weights", _weights),
        ("disk", _disk),
        ("memory", lambda: _memory(facts["memory_free_mb"])),
        ("device memory", _device),
        ("self-test", _trial),
    )
    for k, (what, step) in enumerate(steps):
        progress(what, k / len(steps))
        try:
            findings += step()
        except Exception as error:  # noqa: BLE001  (whatever is broken, the rest is told)
            findings.append(Finding(what, _told(error), _advice(error)))
    findings = [
        replace(one, text=machine.private(one.text), advice=machine.private(one.advice))
        for one in findings
    ]
    return Diagnosis(versions, facts, tuple(findings), time.monotonic() - begun)


def _missing(versions: Mapping[str, str]) -> Iterator[Finding]:
    for name, version in versions.items():
        if version == "missing":
            yield Finding(name, "it is not installed", f"pip install {name}")


def _torch(facts: dict[str, Any]) -> Iterator[Finding]:
    found = machine.of_torch()
    facts.update(found)
    use_threads(1)  # of SimpleITK, too; more only wait for one another on tiny images
    yield Finding("libraries", "torch and SimpleITK can be loaded")
    if machine.gpus() and "sees no" in found["gpu_torch"]:
        facts["gpu_torch"] += "; install torch for CUDA to use the GPU"


def _weights() -> Iterator[Finding]:
    from hsyn_cli.anatomy import organs
    from hsyn_cli.checks.trial import networks

    infos = {info.name: info for info in checkpoints.available(count=False)}
    shipped = {*organs.shipped().values(), checkpoints.FINDER}
    for name in sorted(shipped):
        if name not in infos:
            yield Finding(f"weights {name}", "no manifest lists the checkpoint", AGAIN)
    for name, info in infos.items():
        what = f"weights {name}"
        remedy = AGAIN if name in shipped else "copy the checkpoint again, or train it again"
        problem = checkpoints.problem_of(info)
        if not problem:
            problem = networks(name)
        if problem:
            yield Finding(what, problem, f"{remedy} (the file: {info.path})")
        else:
            yield Finding(what, f"SHA-256 {info.sha256[:12]} as in the manifest; the networks run")


def _disk() -> Iterator[Finding]:
    for what, place, advice in (
        ("temporary folder", _temporary(), "free space there, or set TMPDIR"),
        ("current folder", Path.cwd(), "free space there, or change to another folder"),
    ):
        free = shutil.disk_usage(place).free / 1e6
        text = f"{size_of(free)} are free"
        if free < LEAST_DISK_MB:
            yield Finding(what, f"its disk is full: {text}", advice)
        else:
            yield Finding(what, text)
    with tempfile.TemporaryFile() as file:
        file.write(b"hsyn")


def _temporary() -> Path:
    """The folder that the user or the system wants; Python passes over one that is full."""
    return Path(os.environ.get("TMPDIR") or tempfile.gettempdir())


def _memory(free: float | None) -> Iterator[Finding]:
    if free is None:
        yield Finding("memory", "the system does not tell how much is free")
        return
    need = f"a pair of 1 mm brains needs {size_of(LEAST_MEMORY_MB)}"
    advice = "" if free >= LEAST_MEMORY_MB else "close other programs, or raise the memory limit"
    yield Finding("memory", f"{size_of(free)} are free; {need}", advice)


def _device() -> Iterator[Finding]:
    """The memory of the device that `--device auto` takes; nothing of the CPU."""
    from hsyn_cli.devices import choose_device, device_memory_mb, device_name

    device = choose_device("auto")
    found = device_memory_mb(device)
    if found is None:
        return
    there = f"{size_of(found[0])} of {size_of(found[1])} are free on {device_name(device)}"
    need = f"a pair of 1 mm brains needs about {size_of(DEVICE_MB)}"
    ends = "" if found[0] >= DEVICE_MB else ", and will run on the CPU"
    yield Finding("device memory", f"{there}; {need}{ends}")


def _trial() -> Iterator[Finding]:
    from hsyn_cli.checks.trial import trial

    begun, wrong = time.monotonic(), list(trial())
    for line in wrong:
        yield Finding("self-test", line, f"{AGAIN}, and report it if that does not help")
    if not wrong:
        took = time.monotonic() - begun
        text = f"register, apply, compose, invert, write and read are right ({took:.1f} s)"
        yield Finding("self-test", text)


def _told(error: Exception) -> str:
    if isinstance(error, HsynError):
        return error.message
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}"


def _advice(error: Exception) -> str:
    if isinstance(error, HsynError) and error.hint:
        return error.hint
    if isinstance(error, ImportError | AttributeError):
        return AGAIN
    return "check the disk, its permissions and the installation"


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "not known"
    if name.endswith("_mb"):
        return size_of(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={text}" for key, text in value.items()) or "nothing set"
    return str(value)


def _wrapped(text: str, later: str = "    ", first: str = "  ") -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent=first, subsequent_indent=later)
