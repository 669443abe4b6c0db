#!/usr/bin/env python3
"""Kill `hsyn template` (SIGKILL) at random moments; in the end it must be the same template.

    python examples/template_killed.py [--kills 10] [--people 4] [--seed 0]

The scans are phantoms of 48 x 56 x 40. Each run is killed after a random part of the time that an
undisturbed run takes, and the next one goes on. Exits with 1 if an image, field or affine of the
template differs from that of the undisturbed run, if a registration that was done ran again, or if
something is left behind. Runs on Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import click
import SimpleITK as sitk
from cohort import COMPARED, phantom

USUAL = ("--rounds", "2", "--tolerance", "0", "--preset", "fast", "--threads", "1", "--quiet")


def start(scans: list[Path], out: Path) -> subprocess.Popen[bytes]:
    """`hsyn template` in a process."""
    words = [sys.executable, "-m", "hsyn_cli", "template", *map(str, scans), "-o", str(out)]
    return subprocess.Popen([*words, *USUAL])  # noqa: S603


def contents(out: Path) -> dict[str, str]:
    """{file: its hash} of all images, fields and affines of a template."""
    files = [path for pattern in COMPARED for path in out.rglob(pattern)]
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if "work" not in path.relative_to(out).parts
    }


def finished(out: Path) -> dict[str, float]:
    """{status file: when its registration was done}."""
    found = {}
    for path in out.glob("work/*/status/[!.]*.json"):
        status = json.loads(path.read_text())
        if status["state"] == "done":
            found[str(path)] = status["finished"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = Random(given.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = [folder / f"s{k}.nii.gz" for k in range(given.people)]
        for k, path in enumerate(scans):
            sitk.WriteImage(phantom(k), str(path))
        begun = time.monotonic()
        code = start(scans, folder / "whole").wait()
        whole, done, again = time.monotonic() - begun, {}, []
        click.echo(f"undisturbed: {whole:.0f} s, exit code {code}")
        for k in range(given.kills + 1):
            process = start(scans, folder / "killed")
            if k < given.kills:
                time.sleep(4 + random.random() * 1.5 * whole / given.kills)
                process.kill()
            code = process.wait()
            now = finished(folder / "killed")
            again += [path for path, when in done.items() if now.get(path) != when]
            done = now
            click.echo(f"run {k + 1}: exit code {code}, {len(done)} registrations are done")
        same = contents(folder / "killed") == contents(folder / "whole")
        left = [str(path) for path in (folder / "killed").rglob(".hsyn-*")]
        click.echo(f"files {'equal' if same else 'DIFFER'}; done twice: {again}; left: {left}")
    sys.exit(not (same and not again and not left and code == 0))


if __name__ == "__main__":
    main()
