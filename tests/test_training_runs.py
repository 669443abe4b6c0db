"""The folder of a training run, whatever ends the run: its first state, its log, USR1, two runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import balls, save_checkpoint, tiny_networks

from hsyn_cli import cli, config
from hsyn_cli.cli.commands import train as command
from hsyn_cli.config.training import Stage, Training
from hsyn_cli.errors import Interrupted, OutputError
from hsyn_cli.io import atomic, checkpoints
from hsyn_cli.training import cache as caches
from hsyn_cli.training import loop, runs, session
from hsyn_cli.training.session import Session

SHAPE = (32, 40, 24)  # z, y, x
SN, DI = tiny_networks(1.0)
TINY = Training(
    sn_net=SN.config, di_net=DI.config, size=SHAPE[::-1], log_every=2, validate_every=4,
    precision="float32", di_steps=2, stages=(Stage(0, 1, 8, 3e-3, look=2),),
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> caches.Cache:
    return replace(balls(SHAPE), made_with=caches.settings(TINY))


@pytest.fixture
def out(tmp_path: Path, prepared: caches.Cache) -> Path:
    """A folder with a cache and nothing else; config.json lies beside it."""
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(TINY)))
    folder = tmp_path / "run"
    caches.save_cache(prepared, folder / "cache")
    return folder


@contextlib.contextmanager
def opened(out: Path, *, resume: bool = False, start: Path | None = None) -> Iterator[Session]:
    with Session(out, "cpu", 1) as opened:
        given = None if resume else out.parent / "config.json"
        opened.configure(given, None if start is None else str(start), resume, None)
        opened.load_data(None, lambda step, fraction: None)
        yield opened


def words(out: Path, *, resume: bool = False) -> list[str]:
    start = ["--resume"] if resume else ["--config", str(out.parent / "config.json")]
    return ["train", "-o", str(out), *start, "--device", "cpu", "--threads", "1"]


def curve(out: Path) -> list[dict[str, object]]:
    records = runs.RunFolder(out).records()
    return [{k: v for k, v in record.items() if "second" not in k} for record in records]


def test_a_second_training_into_one_folder_is_refused(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(out):
        assert cli.run(words(out)) == 5
        assert "another run is writing" in capsys.readouterr().err
        assert cli.run(words(out, resume=True)) == 5
        assert "another run is writing" in capsys.readouterr().err
    assert sorted(os.listdir(out)) == ["cache"]


def test_a_folder_that_nothing_came_into_goes(tmp_path: Path) -> None:
    assert cli.run(["train", "-o", str(tmp_path / "new" / "run"), "--device", "cpu"]) == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stale", [False, True])
def test_a_run_killed_before_its_first_step_resumes_from_the_checkpoint_it_began_with(
    out: Path, monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    start = save_checkpoint(out.parent / "start.safetensors", *tiny_networks(1.0, 0.3, seed=7))
    leftovers = [out / name for name in ("log.jsonl", "curves.png", "checkpoint.safetensors")]
    if stale:  # of a run whose config was removed
        for path in leftovers:
            path.write_text("stale")
        save_checkpoint(out / "state.safetensors", *tiny_networks(1.0, 0.3, seed=8))

    def killed(*words: object, **more: object) -> Iterator[loop.Record]:
        raise KeyboardInterrupt
        yield {}

    with monkeypatch.context() as patch, opened(out, start=start) as run:
        patch.setattr(loop, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            next(run.train())
    assert not any(path.exists() for path in leftovers)
    with opened(out, resume=True) as run:
        runs.load_state(run.run, run.training, run.networks)
        expected = checkpoints.load(str(start)).tensors
        assert all(torch.equal(v, expected[k]) for k, v in run.networks.tensors().items())
        assert len(list(run.train())) == 5
    assert (out / "checkpoint.safetensors").exists()


def test_config_and_first_state_appear_together(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: runs.RunFolder, training: Training) -> None:
        raise OutputError("no space left")

    monkeypatch.setattr(runs, "write_config", full)
    with opened(out) as run, pytest.raises(OutputError):
        next(run.train())
    assert os.listdir(out) == ["cache"]


def test_a_config_without_a_state_is_told(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.write_config(runs.RunFolder(out), TINY)
    assert cli.run(words(out, resume=True)) == 5
    assert "holds no state to resume from" in capsys.readouterr().err


def test_a_log_that_a_crash_cut_goes_on(out: Path) -> None:
    run = runs.RunFolder(out)
    for step in (2, 4, 6):
        run.append({"phase": 0, "step": step})
    for rest in (b'{"phase": 0, "st', b'{"phase": 0, "step": 8, "name": "\xc3', b"\0\0\0"):
        with run.log.open("ab") as stream:
            stream.write(rest)
        assert [record["step"] for record in run.records()] == [2, 4, 6]
        run.cut_log(loop.State(0, 8))
        assert run.log.read_bytes().count(b"\n") == 3
    run.cut_log(loop.State(0, 4))
    run.append({"phase": 0, "step": 6})
    assert [record["step"] for record in run.records()] == [2, 4, 6]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    run = runs.RunFolder(tmp_path)
    run.append({"step": 1, "text": "x" * 1_000_000})
    size, (soft, hard) = run.log.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))
    try:
        with pytest.raises(OutputError, match=r"log\.jsonl: no space left"):
            run.append({"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.log.stat().st_size == size


def test_a_cache_is_whole_or_missing(
    tmp_path: Path, prepared: caches.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OutputError(f"{path}: no space left to write it")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_text", full)
        with pytest.raises(OutputError, match=f"{tmp_path / 'cache'}/cache.json: no space"):
            caches.save_cache(prepared, tmp_path / "cache")
    assert os.listdir(tmp_path) == []
    caches.save_cache(prepared, tmp_path / "cache")
    assert caches.load_cache(tmp_path / "cache").names == prepared.names


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
def test_usr1_saves_the_state_and_stops(
    out: Path, prepared: caches.Cache, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real = runs.RunFolder.append

    def warned(run: runs.RunFolder, record: loop.Record) -> None:
        real(run, record)
        os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFolder, "append", warned)
        assert cli.run(words(out)) == 0
    assert (
        f"stopped on time; continue with: hsyn train -o {out} --resume" in capsys.readouterr().out
    )
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert [record["step"] for record in curve(out)] == [2]
    assert cli.run(words(out, resume=True)) == 0
    assert "trained; use it with" in capsys.readouterr().out
    whole = out.parent / "whole"
    caches.save_cache(prepared, whole / "cache")
    with opened(whole) as run:
        list(run.train())
    assert curve(out) == curve(whole)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
def test_usr1_that_is_ignored_stays_ignored() -> None:
    class Unstoppable:
        def stop(self) -> None:
            pytest.fail("was stopped")

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with command._stopping_on_usr1(Unstoppable()):  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_the_checkpoint_is_never_older_than_the_state(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full between both; the next run goes on to the end."""

    def full(*words: object) -> None:
        if (out / "checkpoint.safetensors").exists():
            raise OutputError("no space left")

    with monkeypatch.context() as patch, opened(out) as run:
        patch.setattr(session, "SAVE_EVERY", 0.0)
        real = runs.save_state
        patch.setattr(runs, "save_state", lambda *words: (full(), real(*words)))
        with pytest.raises(OutputError):
            list(run.train())
    with opened(out, resume=True) as run:
        assert runs.load_state(run.run, run.training, run.networks).step == 0
        assert len(list(run.train())) == 5
        assert run.finished


def test_an_interruption_tells_what_is_kept(tmp_path: Path) -> None:
    class Stub:
        run = runs.RunFolder(tmp_path)

    def told() -> Interrupted:
        with pytest.raises(Interrupted) as caught, command._telling_what_is_kept(Stub()):  # type: ignore[arg-type]
            raise Interrupted("stopped by SIGHUP")
        return caught.value

    assert told().message == "stopped by SIGHUP"
    Stub.run.cache.mkdir()
    assert told().message == f"stopped by SIGHUP; the prepared images are in {tmp_path / 'cache'}"
    Stub.run.config.touch()
    assert told().message.startswith("stopped by SIGHUP; the last state is in")
    assert "--resume" in told().hint
