"""Fixtures that several tests share, and one thread for torch.

On these small tensors more threads only wait for one another.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from browsers import NO_BROWSER
from stand_ins import SIZE, fake_result, grid_image, replace_pipeline

# A shell that starts the tests in the background, or nohup, ignores these; hsyn would, too.
for name in ("SIGHUP", "SIGQUIT"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the two images m.nii.gz and f.nii.gz."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("m", 1), ("f", 2)):
        sitk.WriteImage(grid_image(SIZE, seed), f"{name}.nii.gz")
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts a stand-in in the place of the pipeline and tells how it was called."""
    seen: list[dict[str, Any]] = []

    def register(moving: sitk.Image, fixed: sitk.Image, **options: Any) -> Any:
        seen.append({"moving": moving, "fixed": fixed, **options})
        options["progress"]("networks", 0.5)
        return fake_result()

    replace_pipeline(monkeypatch, register)
    return seen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell aloud that nobody has looked at the pages."""
    skipped = terminalreporter.stats.get("skipped", [])
    missed = [report for report in skipped if NO_BROWSER in str(report.longrepr)]
    if missed:
        text = f"{len(missed)} tests of the pages were SKIPPED: {NO_BROWSER}"
        terminalreporter.write_sep("!", text, red=True, bold=True)
