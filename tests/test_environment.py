"""Odd surroundings: streams, names, homes, current folders."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import platformdirs
import pytest
from stand_ins import assembled

import hsyn_cli
from hsyn_cli import cli
from hsyn_cli.cli import endings, streams
from hsyn_cli.errors import WeightsError
from hsyn_cli.io import checkpoints, plain
from hsyn_cli.results import page
from hsyn_cli.results.report import to_dict

posix = pytest.mark.skipif(os.name != "posix", reason="streams of POSIX")
SOURCE = str(Path(hsyn_cli.__file__).parents[1])
HSYN = [sys.executable, "-c", "from hsyn_cli.cli import main; main()"]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of sh, in which `hsyn` is the command, and keep what it prints."""
    prologue = f"hsyn() {{ '{HSYN[0]}' -c '{HSYN[2]}' \"$@\"; }}\n"
    surroundings = {**os.environ, "PYTHONPATH": SOURCE, **environment}
    return subprocess.run(
        ["/bin/sh", "-c", prologue + script], capture_output=True, env=surroundings
    )


FULL = b"error: standard output cannot be written (No space left on device)\n"


@posix
@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("hsyn guide fields > /dev/full", 5, FULL),
        ("hsyn --help > /dev/full", 5, FULL),
        ("hsyn weights list --json >&-", 0, b""),
        ("hsyn weights list >&- 2>&- <&-", 0, b""),
        ("hsyn nonsense 2>&-", 2, b""),
        ("hsyn nonsense 2> /dev/full", 2, b""),
        ("{ hsyn guide fields; echo $? >&2; } | true", 0, b"0\n"),
    ],
)
def test_streams_that_cannot_be_written(script: str, code: int, told: bytes) -> None:
    if "/dev/full" in script and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    done = shell(script)
    assert done.returncode == code
    assert done.stderr.splitlines()[:1] == told.splitlines()
    assert len(done.stderr.splitlines()) <= 2  # and a hint


@posix
def test_a_file_never_takes_the_number_of_a_closed_stream() -> None:
    program = (
        "from hsyn_cli.cli import streams; streams.prepare(); print(open('/dev/null').fileno())"
    )
    script = f"'{sys.executable}' -c \"{program}\" 2>&- <&-"
    assert int(shell(script).stdout) > 2


@posix
@pytest.mark.parametrize(
    "surroundings", [{}, C_LOCALE, {"PYTHONIOENCODING": "ascii"}, {"TERM": "dumb", "COLUMNS": "20"}]
)
def test_any_name_is_told_in_one_line(surroundings: dict[str, str]) -> None:
    name = "\"$(printf 'a\\351\\303\\251\\n\\033[1mb')\".safetensors"
    done = shell(f"hsyn register -m a -f b -o c --model {name}", **surroundings)
    assert done.returncode == 6
    first, hint = done.stderr.decode().splitlines()
    assert r"a\udce9" in first
    assert r"\n\x1b[1mb" in first
    assert first.startswith("error: ")
    assert hint.startswith("hint: ")


@posix
@pytest.mark.parametrize("columns", ["0", "1", "20", "x"])
def test_no_width_of_a_terminal_hides_words(columns: str) -> None:
    program = (
        "from hsyn_cli.cli import streams; streams.prepare(); from rich.console import Console; "
        "from rich.table import Table; t = Table.grid(); t.add_column(no_wrap=True); "
        "t.add_row('a' * 20, 'value'); Console().print(t)"
    )
    done = shell(f"'{sys.executable}' -c \"{program}\"", COLUMNS=columns, TERM="dumb")
    assert done.stdout.split() == [b"a" * 20 + b"value"]


def test_json_takes_any_name() -> None:
    names = {"output": "a\udce9", "field": "é"}
    text = plain.dump(names)
    assert json.loads(text) == names
    assert text.isascii()


def test_the_page_takes_any_name() -> None:
    report = to_dict(assembled(page=Path("a\udce9") / "report.html"))
    windows = {"fixed": (0.0, 1.0), "moving": (0.0, 1.0)}
    grid = SimpleNamespace(spacing=(1.0, 1.0, 1.0), normal=None)
    pictures = SimpleNamespace(to_dict=dict, folded=0, grid=grid, windows=windows)
    text = page.make_page(report, pictures)  # type: ignore[arg-type]
    assert rb"a\udce9/report.html" in text.encode()


def test_click_tells_odd_words_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["invert", "--a\nb"]) == 2
    assert "'--a\\nb'" in capsys.readouterr().err.splitlines()[-1]


def test_the_current_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def getcwd() -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", getcwd)
    assert cli.run(["jacobian", "a.nii"]) == 3
    assert capsys.readouterr().err.startswith("error: the current folder is gone\nhint: ")


# Homes


def test_checkpoints_need_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(*names: str, **options: bool) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_data_path", no_home)
    assert [info.name for info in checkpoints.available()]
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: Path("~/.local"))
    assert all(folder.is_absolute() for folder in checkpoints.folders())


def test_a_home_that_may_not_be_entered(tmp_path: Path) -> None:
    """As another user, where this one is root, whom no permission stops."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0)
    surroundings = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE, "HOME": str(home)}
    other: list[str] = []
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no other user")
        other = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
        package = [*other, sys.executable, "-c", "import hsyn_cli"]
        if subprocess.run(
            package, env=surroundings | {"HOME": "/"}, capture_output=True
        ).returncode:
            pytest.skip("the other user cannot enter this checkout")
    done = subprocess.run(
        [*other, *HSYN, "weights", "list"], capture_output=True, text=True, env=surroundings
    )
    home.chmod(0o700)
    assert (done.returncode, done.stderr) == (0, "")
    assert "brain-t1" in done.stdout


def test_a_checkpoint_below_a_folder_that_may_not_be_entered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", denied)
    monkeypatch.setattr(checkpoints, "folders", list)
    with pytest.raises(WeightsError, match=r"/a/b\.safetensors: Permission denied"):
        checkpoints.find("/a/b.safetensors")


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [
        (errno.ENOSPC, "out/a.nii", 5),
        (errno.EROFS, "out/a.nii", 5),
        (errno.EACCES, "new.nii", 5),
        (errno.EACCES, "here.nii", 5),
        (errno.EACCES, "missing/a.nii", 3),
        (errno.EIO, "here.nii", 3),
        (errno.ENOENT, None, 3),
    ],
)
def test_an_error_of_the_system_becomes_one_line(
    number: int,
    name: str | None,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), name)

    (tmp_path / "here.nii").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "available", fail)
    assert cli.run(["weights", "list"]) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: {name or 'the system refuses'}: {os.strerror(number)}"
    assert hint.startswith("hint: ")


def test_results_that_stdout_does_not_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "failure", lambda: OSError(errno.ENOSPC, "No space"))
    monkeypatch.setattr(endings, "commits", lambda: 1)
    assert endings.printed(0) == 5
    text = "error: standard output cannot be written (No space); all files were written"
    assert capsys.readouterr().err.splitlines()[0] == text
    assert endings.printed(9) == 9
    monkeypatch.setattr(streams, "failure", lambda: BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert endings.printed(0) == 0
    assert capsys.readouterr().err == ""
