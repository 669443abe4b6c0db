"""Outputs appear whole: staging folders, their locks, two runs at once, and commits cut short."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsyn_cli.errors import OutputError
from hsyn_cli.io import atomic, moves, staging, staging_folders
from hsyn_cli.io.staging_folders import MINUTE, StagingFolder
from hsyn_cli.io.undisturbed import undisturbed

locks = pytest.mark.skipif(staging_folders.fcntl is None, reason="needs file locks")


def write(targets: list[Path], text: str, *, force: bool = False) -> None:
    with atomic.claim(targets, force=force) as staged:
        for target in targets:
            staged.path(target).write_text(text)
        staged.commit()


def refused(targets: list[Path], text: str, *, force: bool = False) -> None:
    with pytest.raises(OutputError, match=text) as caught, atomic.claim(targets, force=force):
        pytest.fail("was allowed")
    assert caught.value.hint
    assert ".hsyn-" not in caught.value.message


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".hsyn-*"))


def abandon(folder: StagingFolder) -> None:
    """Leave a staging folder as a run does that was killed."""
    detached = folder.close.detach()
    assert detached is not None
    (lock,) = detached[2][1]  # of the arguments of `remove`
    os.close(lock)


def aged(path: Path, seconds: float) -> None:
    for each in (*path.rglob("*"), path):
        os.utime(each, (time.time() - seconds,) * 2)


@locks
def test_leftovers_are_cleared_and_live_neighbours_are_not(tmp_path: Path) -> None:
    dead, live = StagingFolder(tmp_path), StagingFolder(tmp_path)
    (dead.new / "half.nii").write_text("half")
    abandon(dead)
    (tmp_path / ".hsyn-justmade").mkdir()
    (tmp_path / "out").mkdir()
    beside = StagingFolder(tmp_path / "out")
    abandon(beside)
    write([tmp_path / "out" / "a"], "new")  # clears where it writes, and the folder above
    assert left(tmp_path) == [live.path.name]
    live.close()
    assert left(tmp_path) == []


@locks
def test_a_folder_without_a_lock_file_is_cleared_when_it_is_old(tmp_path: Path) -> None:
    folder = tmp_path / ".hsyn-12345678"
    folder.mkdir()
    (folder / "a").touch()
    write([tmp_path / "1"], "")
    assert folder.exists()
    aged(folder, MINUTE + 1)
    write([tmp_path / "2"], "")
    assert not folder.exists()


@locks
def test_another_computer_s_folder_must_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(staging_folders, "_computer", lambda: {b"elsewhere"})
        abandon(other := StagingFolder(tmp_path))
    write([tmp_path / "1"], "")
    assert other.path.exists()
    aged(other.path, staging_folders.DAY + 1)
    write([tmp_path / "2"], "")
    assert left(tmp_path) == []


def test_without_locks_everything_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_folders, "fcntl", None)
    targets = [tmp_path / "a", tmp_path / "out" / "b"]
    with atomic.claim(targets):  # nobody can know that it lives: not cleared, nor in the way
        write(targets, "new")
    assert [target.read_text() for target in targets] == ["new", "new"]
    assert left(tmp_path) == []


@locks
def test_a_folder_that_is_cleared_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, cleared = os.open, []

    def slow(path: Path, *more: int) -> int:
        if not cleared:
            cleared.append(path)
            os.rmdir(tmp_path / path.parent)
        return real(path, *more)

    monkeypatch.setattr(os, "open", slow)
    atomic.write_text(tmp_path / "a", "whole")
    assert cleared
    assert (tmp_path / "a").read_text() == "whole"


@locks
@pytest.mark.parametrize("force", [False, True])
def test_two_runs_into_one_file(tmp_path: Path, force: bool) -> None:
    mine, other = [tmp_path / "new" / "deep" / "a", tmp_path / "b"], tmp_path / "new" / "c"
    with atomic.claim(mine) as staged:
        for target in mine:
            refused(
                [other, target], f"another run is writing .*{target.name} right now", force=force
            )
            staged.path(target).write_text("first")
        write([other], "meanwhile", force=force)
        staged.commit()
    assert [path.read_text() for path in (*mine, other)] == ["first", "first", "meanwhile"]
    assert left(tmp_path) == []


@locks
def test_two_processes_into_one_folder(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\nfrom hsyn_cli.io import atomic\n"
        "with atomic.claim([pathlib.Path('out', 'report.json')]) as staged:\n"
        "    print('claimed', flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        refused([tmp_path / "out" / "report.json"], "another run is writing", force=True)
        child.kill()
    write([tmp_path / "out" / "report.json"], "mine")
    assert os.listdir(tmp_path) == ["out"]


def test_a_new_folder_appears_by_one_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, real = [], os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).parent.name[:6] != ".hsyn-":
            moved.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write([tmp_path / "new" / "out" / "a", tmp_path / "new" / "b"], "x")
    assert moved == [tmp_path / "new"]
    assert {p.name for p in tmp_path.rglob("*")} == {"new", "out", "a", "b"}
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "new" / "out").stat().st_mode
    moved.clear()  # files in other folders, too; the folder comes when its last file is due
    write([tmp_path / "out" / "a", tmp_path / "ants_b", tmp_path / "out" / "report"], "x")
    assert moved == [tmp_path / "ants_b", tmp_path / "out"]


def test_a_folder_that_appears_meanwhile_is_filled_and_its_files_are_kept(tmp_path: Path) -> None:
    targets = [tmp_path / "out" / "a", tmp_path / "out" / "sub" / "b"]

    def run(*, force: bool) -> None:
        with atomic.claim(targets, force=force) as staged:
            for target in targets:
                staged.path(target).write_text("new")
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "out" / "other").write_text("theirs")
            if len(os.listdir(tmp_path / "out")) == 1 and not force:
                targets[0].write_text("theirs")
            staged.commit()

    with pytest.raises(OutputError, match="a exists by now"):
        run(force=False)
    assert targets[0].read_text() == "theirs"
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "other"]
    run(force=True)
    assert [target.read_text() for target in targets] == ["new", "new"]
    assert (tmp_path / "out" / "other").read_text() == "theirs"
    assert left(tmp_path) == []


def test_old_outputs_go_with_the_commit_and_stay_if_it_fails(tmp_path: Path) -> None:
    targets, old = [tmp_path / "a", tmp_path / "b"], tmp_path / "old"
    old.write_text("old")

    def run(text: str, *, whole: bool) -> None:
        with atomic.claim(targets, force=True) as staged:
            for target in targets[: 2 if whole else 1]:
                staged.path(target).write_text(text)
            staged.remove([old, tmp_path / "never there"])
            staged.commit()

    with pytest.raises(OutputError, match="b: cannot be written: nothing was staged"):
        run("half", whole=False)
    assert os.listdir(tmp_path) == ["old"]
    run("new", whole=True)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_names_as_long_as_the_disk_takes_and_those_of_the_staging_folder(tmp_path: Path) -> None:
    targets = [tmp_path / ("x" * 255), *(tmp_path / name for name in ("lock", "new", "journal"))]
    write(targets, "one")
    write(targets, "two", force=True)
    assert {target.read_text() for target in targets} == {"two"}
    atomic.write_text(tmp_path / "lock", "three")
    assert (tmp_path / "lock").read_text() == "three"


# Forks a run for each n, which kills itself at its n-th call that changes a folder, in a commit
# that replaces two files, adds one in a folder that exists and one in a new folder, and removes
# one. Prints how each ended.
KILLED = """
import itertools, os, pathlib, signal, sys
from hsyn_cli.io import atomic

def deadly(call):
    def counted(*words, **more):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*words, **more)
    return counted

def commit(here):
    targets = [here / name for name in ("ants/one", "new/two", "here/three", "here/report.json")]
    with atomic.claim(targets, force=True) as staged:
        for target in targets:
            staged.path(target).write_text("new")
        staged.remove([here / "here" / "labels"])
        for name in ("replace", "link", "unlink", "rmdir"):
            setattr(os, name, deadly(getattr(os, name)))
        staged.commit()

for left in itertools.count(1):
    here = pathlib.Path(sys.argv[1], str(left))
    for name in ("here/report.json", "here/labels", "ants/one"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("old")
    if not os.fork():
        commit(here)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    print(status)
    if status != -signal.SIGKILL:
        break
"""


def state(place: Path) -> dict[str, str]:
    return {
        path.relative_to(place).as_posix(): path.read_text()
        for path in place.rglob("*")
        if path.is_file() and ".hsyn-" not in str(path)
    }


@locks
def test_a_commit_that_is_killed_at_any_step_is_finished_or_never_was(tmp_path: Path) -> None:
    old = {"here/report.json": "old", "here/labels": "old", "ants/one": "old"}
    new = dict.fromkeys(("ants/one", "new/two", "here/three", "here/report.json"), "new")
    halves = 0
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    for number, ended in enumerate(told, start=1):
        place = tmp_path / str(number)
        found = state(place)
        assert "here/report.json" in found
        halves += found not in (old, new)
        # The next run in one of the folders finishes the commit in all of them.
        write([place / ("ants" if number % 2 else "here") / "next"], "next")
        after = {name: text for name, text in state(place).items() if text != "next"}
        assert after in (old, new), (number, found)
        assert after == new or found == old
        write([place / ("here" if number % 2 else "ants") / "next"], "next")
        assert left(place) == []
        assert ended == ("0" if number == len(told) else str(-signal.SIGKILL))
    assert halves >= 5
    assert len(told) >= 10


@locks
def test_a_live_commit_is_left_to_its_run(tmp_path: Path) -> None:
    with atomic.claim([tmp_path / "a", tmp_path / "b"]) as staged:
        folder = staged._folders[tmp_path]
        for name in "ab":
            (folder.new / name).write_text(name)
        moves.write_journal(folder.path, staged._moves())
        write([tmp_path / "c"], "c")
        assert sorted(os.listdir(tmp_path))[1:] == ["c"]
        staged.commit()
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


@locks
def test_a_commit_that_cannot_be_finished_is_told(tmp_path: Path) -> None:
    folder = StagingFolder(tmp_path)
    for name in ("a", "b"):
        (folder.new / name).write_text("new")
    work = [moves.Move(folder.new / name, tmp_path / name, folder.path) for name in ("a", "b")]
    moves.write_journal(folder.path, work)
    (tmp_path / "b").mkdir()
    abandon(folder)
    with pytest.raises(OutputError, match="b: a killed run left it half done") as caught:
        write([tmp_path / "c"], "mine")
    assert f"remove {folder.path}" in caught.value.hint
    (tmp_path / "b").rmdir()
    write([tmp_path / "c"], "mine")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_an_old_file_is_there_at_every_moment(tmp_path: Path) -> None:
    target, seen, over = tmp_path / "report.json", [], threading.Event()
    target.write_text("0")

    def watch() -> None:
        while not over.is_set():
            seen.append(target.read_text() if target.exists() else None)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for k in range(1, 30):
            write([tmp_path / "field", target], str(k), force=True)
    finally:
        over.set()
        watcher.join()
    assert None not in seen
    assert "" not in seen


@pytest.mark.parametrize("call", ["link", "replace"])
def test_a_move_that_fails_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    targets = [tmp_path / name for name in ("a", "b", "c")]
    for target in targets[:2]:
        target.write_text("old")
    real = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target) == targets[2]:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    def no_link(*words: Path, **more: bool) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "replace", failing)
    if call == "link":
        monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(OutputError, match="c: cannot be written: Input/output error"):
        write(targets, "new", force=True)
    assert [target.read_text() for target in targets[:2]] == ["old", "old"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_the_system_refuses_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for target, text in [
        (tmp_path / "file" / "a", "cannot be written: .*file is no folder"),
        (tmp_path / "loop" / "a", "cannot be written: Too many levels"),
        (tmp_path / "loop", "cannot be written: Too many levels"),
        (tmp_path / ("x" * 256), "File name too long"),
        (tmp_path / "new" / ("é" * 128) / "a", "File name too long"),
        (tmp_path / ("é" * 128) / "new" / "a", "File name too long"),
        (tmp_path / "/".join(["x" * 200] * 20) / "a", "File name too long"),
        (tmp_path / "a\0b", "cannot be written"),
        (Path(os.devnull), "is a device or a pipe"),
        (tmp_path / "new" / "..", "is a folder"),
    ]:
        refused([target], text, force=True)
    (tmp_path / "link").symlink_to("nowhere")
    refused([tmp_path / "link"], "link exists already")
    with pytest.raises(OutputError, match="Too many levels"):
        atomic.check_space(tmp_path / "loop" / "new", 1)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "loop"]


@contextlib.contextmanager
def as_a_user() -> Iterator[None]:
    """Root may enter every folder."""
    user = os.geteuid()
    try:
        os.seteuid(54321 if user == 0 else user)
        yield
    finally:
        os.seteuid(user)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs permissions of files")
def test_folders_that_may_not_be_entered_or_written_to(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    modes = {path: path.stat().st_mode for path in (tmp_path, *list(tmp_path.parents)[:2])}
    for folder, mode in modes.items():
        folder.chmod(mode | 0o011)
    try:
        with as_a_user():
            refused([tmp_path / "closed" / "a"], "closed/a: cannot be written: Permission denied")
            refused([tmp_path / "closed" / "b" / "a"], "Permission denied", force=True)
            if os.getuid() == 0:
                refused([tmp_path / "a"], "cannot be written: Permission denied")
    finally:
        (tmp_path / "closed").chmod(0o700)
        for folder, mode in modes.items():
            folder.chmod(mode)


def test_a_missing_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused([Path("a")], "a: cannot be written")


def test_a_full_disk_that_a_library_does_not_tell_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "a":  # the half that fits, as ITK's writer of NRRD leaves it
            return real(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="a: no space left"):
        atomic.write_text(tmp_path / "a", "content")
    assert os.listdir(tmp_path) == []


def test_commits_are_counted(tmp_path: Path) -> None:
    start = atomic.commits()
    write([tmp_path / "a", tmp_path / "b"], "x")
    assert atomic.commits() == start + 1
    with atomic.claim([tmp_path / "c"]):
        atomic.write_text(tmp_path / "d", "x")
    with pytest.raises(OutputError):
        write([tmp_path / "a"], "x")
    assert atomic.commits() == start + 1


class Signalled(BaseException):
    pass


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def raising(*details: object) -> None:
        raise Signalled

    kept = signal.signal(signal.SIGTERM, raising)
    yield
    signal.signal(signal.SIGTERM, kept)


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.usefixtures("signals")
def test_a_signal_does_not_split_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = moves.carry_out

    def disturbed(work: list[moves.Move]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(work[:1])
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        real(work[1:])

    monkeypatch.setattr(moves, "carry_out", disturbed)
    start = atomic.commits()
    with pytest.raises(Signalled):
        write([tmp_path / "a", tmp_path / "b"], "x")
    assert atomic.commits() == start + 1
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.usefixtures("signals")
def test_signals_at_any_moment_leave_all_or_nothing(tmp_path: Path) -> None:
    for k in range(60):
        folder = tmp_path / str(k)
        folder.mkdir()
        (folder / "a").write_text("old")
        timer = threading.Timer(0.0002 * k, os.kill, (os.getpid(), signal.SIGTERM))
        start = atomic.commits()
        try:
            timer.start()
            write([folder / "a", folder / "b"], "new", force=True)
            timer.join()
            time.sleep(0.01)
        except Signalled:
            timer.join()
        written = atomic.commits() > start
        assert state(folder) == ({"a": "new", "b": "new"} if written else {"a": "old"})
        assert left(folder) == []


def test_what_undisturbed_work_raises_and_returns() -> None:
    def failing() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        undisturbed(failing)
    threads: list[bool] = []
    undisturbed(lambda: threads.append(threading.current_thread() is threading.main_thread()))
    assert threads == [False]


def test_work_that_gets_no_thread_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    done: list[int] = []
    undisturbed(lambda: done.append(1))
    assert done == [1]


def test_claims_say_what_they_write(tmp_path: Path) -> None:
    with atomic.claim([tmp_path / "new" / "a", tmp_path / "b"]):
        (folder,) = tmp_path.iterdir()
        assert json.loads((folder / staging.TARGETS).read_text()) == ["new/a", "b"]


def test_errors_name_the_target_and_not_the_staging_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.nii"

    def run() -> None:
        with atomic.claim([target]) as staged, atomic.replacing(staged.path(target)) as temporary:
            atomic.check_space(temporary.parent, 1 << 62)

    with pytest.raises(OutputError) as caught:
        run()
    assert str(caught.value).startswith(f"{target.parent}: no space left")
