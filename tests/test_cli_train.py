"""`hsyn train` as a user runs it: plan, run, kill, resume, several processes, bad input."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from samples import save_checkpoint, tiny_networks

from hsyn_cli import cli, config
from hsyn_cli.config.training import Stage, Training
from hsyn_cli.io import checkpoints as weights
from hsyn_cli.method.register import register

SN, DI = tiny_networks(1.0)
TINY = Training(
    sn_net=SN.config, di_net=DI.config, size=(64, 64, 56), log_every=5, validate_every=10,
    precision="float32", di_steps=10,
    stages=(Stage(0, 1, 40, 3e-3, look=2), Stage(0, 2, 20, 2e-3)), batch=2,
)  # fmt: skip


def ball(number: int) -> sitk.Image:
    z, y, x = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (24, 28, 26)), indexing="ij")
    radius = np.sqrt(z**2 + y**2 + (1 + 0.04 * number) * x**2) + 0.1 * x
    values = np.where(radius < 0.5, 120.0, np.where(radius < 0.9, 60.0, 0.0)) + 20 * np.cos(
        5 * y
    ) * (radius < 0.9)
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 2.0))
    return image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images and config.json."""
    folder = tmp_path_factory.mktemp("data")
    for k in range(5):
        sitk.WriteImage(ball(k), str(folder / f"{k}.nii.gz"))
    (folder / "config.json").write_text(json.dumps(config.to_dict(TINY)))
    return folder


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return [
        "train",
        "--data",
        str(data),
        "-o",
        str(out),
        "--config",
        str(data / "config.json"),
        "--threads",
        "1",
        *more,
    ]


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.cli, [str(word) for word in words])


def code(*words: str | Path) -> int:
    return cli.run([str(word) for word in words])


def scores(out: Path) -> list[dict[str, Any]]:
    """The log without its times."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if "second" not in k} for record in records]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = run(*arguments(data, out))
    assert result.exit_code == 0, result.output
    assert "5 subjects, float32" in result.output
    assert "held-out ncc" in result.output
    assert "--model" in result.output
    return out


@pytest.mark.slow
def test_a_run_ends_with_all_its_files_and_a_checkpoint_that_registers(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {
        "config.json",
        "cache",
        "log.jsonl",
        "state.safetensors",
        "checkpoint.safetensors",
        "curves.png",
    } <= names
    assert (trained / "curves.png").stat().st_size > 5000
    last = scores(trained)[-1]
    assert (last["name"], last["step"]) == ("DI-Net", 10)
    result = register(
        ball(0), ball(3), preset="fast", weights=str(trained / "checkpoint.safetensors")
    )
    assert result.facts.checkpoint.name == "checkpoint"
    assert result.facts.similarity.after > result.facts.similarity.affine


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_curve(data: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-c",
        "from hsyn_cli.training import session; session.SAVE_EVERY = 0.0\n"
        "import hsyn_cli.cli as c; c.main()",
    ]
    child = subprocess.Popen([*command, *arguments(data, out, "--quiet")])
    while not (out / "log.jsonl").exists() or len(scores(out)) < 4:
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert run("train", "-o", out, "--resume", "--threads", "1").exit_code == 0
    assert scores(out) == scores(trained)
    assert (out / "checkpoint.safetensors").read_bytes()[-20_000:] == (
        trained / "checkpoint.safetensors"
    ).read_bytes()[-20_000:]


@pytest.mark.slow
def test_two_processes_see_the_loss_of_one(data: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    script = tmp_path / "train.py"
    script.write_text(
        "import atexit, pathlib, sys\n"
        "import hsyn_cli.cli as c\n"
        "def tell():\n"
        "    names = [f.read_text() for f in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
        "    print('threads at the end:', *names, file=sys.stderr)\n"
        "atexit.register(tell)\n"
        "c.main()\n"
    )
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    done = subprocess.run(
        [*launch, *arguments(data, out, "--device", "cpu")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "threads at the end:" in done.stderr
    assert "gloo" not in done.stderr, "the process group is still alive, and may abort the process"
    one, two = ([r["loss"] for r in scores(place) if "loss" in r] for place in (trained, out))
    assert one == pytest.approx(two, abs=2e-3)
    assert one[0] == pytest.approx(two[0], abs=1e-5)


@pytest.mark.slow
def test_a_dry_run_tells_the_plan_and_trains_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "dry"
    result = run(*arguments(data, out, "--dry-run"))
    assert result.exit_code == 0, result.output
    for word in ("SN-Net 1", "SN-Net 1+2", "DI-Net", "40", "minutes", "GB of memory"):
        assert word in result.output
    assert not (out / "log.jsonl").exists()
    assert not (out / "config.json").exists()
    told = json.loads(run(*arguments(data, out, "--dry-run", "--json")).output.splitlines()[-1])
    assert [row["steps"] for row in told["plan"]] == [40, 20, 10]


def test_minutes_scale_the_steps(data: Path, tmp_path: Path) -> None:
    told = json.loads(
        run(
            *arguments(data, tmp_path / "dry", "--dry-run", "--json", "--minutes", "10")
        ).output.splitlines()[-1]
    )
    assert told["seconds"] == pytest.approx(600, rel=0.1)
    first, second, _ = (row["steps"] for row in told["plan"])
    assert first == pytest.approx(2 * second, rel=0.05)


@pytest.mark.slow
def test_little_time_leaves_the_finest_level_out_but_not_one_that_a_config_asks_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = (*TINY.sn_net.levels, dataclasses.replace(TINY.sn_net.levels[1], scale=1, stride=2))
    deep = dataclasses.replace(
        TINY,
        sn_net=dataclasses.replace(TINY.sn_net, levels=levels),
        stages=(*TINY.stages, Stage(2, 3, 900, 1e-3)),
    )
    monkeypatch.setattr("hsyn_cli.training.session.Training", lambda: deep)
    (tmp_path / "deep.json").write_text(json.dumps(config.to_dict(deep)))

    def names(*more: str | Path) -> list[str]:
        words = (
            "train",
            "--data",
            data,
            "-o",
            tmp_path / "dry",
            "--dry-run",
            "--json",
            "--threads",
            "1",
        )
        return [
            row["name"] for row in json.loads(run(*words, *more).output.splitlines()[-1])["plan"]
        ]

    whole = ["SN-Net 1", "SN-Net 1+2", "SN-Net 3", "DI-Net"]
    assert names() == whole
    assert names("--minutes", "0.05") == ["SN-Net 1", "SN-Net 1+2", "DI-Net"]
    assert names("--minutes", "600") == whole
    assert (
        "left out"
        in run(
            "train", "--data", data, "-o", tmp_path / "dry", "--dry-run", "--minutes", "0.05"
        ).output
    )
    assert names("--minutes", "0.05", "--config", tmp_path / "deep.json") == whole


@pytest.mark.slow
def test_it_stops_in_time_and_goes_on(data: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    result = run(*arguments(data, out, "--stop-after", "0.005"))
    assert result.exit_code == 0, result.output
    assert "--resume" in result.output
    assert len(scores(out)) < len(scores(trained))
    assert run("train", "-o", out, "--resume", "--threads", "1").exit_code == 0
    assert scores(out) == scores(trained)


def test_the_checkpoint_that_ships_can_be_fine_tuned(data: Path, tmp_path: Path) -> None:
    stages = [{"first": 0, "depth": 1, "steps": 1, "rate": 1e-4}]
    (tmp_path / "small.json").write_text(
        json.dumps({"size": [64, 64, 56], "stages": stages, "di_steps": 0})
    )
    words = (
        "--from",
        weights.DEFAULT,
        "--config",
        tmp_path / "small.json",
        "--dry-run",
        "--threads",
        "1",
    )
    result = run("train", "--data", data, "-o", tmp_path / "x", *words)
    assert result.exit_code == 0, result.output


def test_a_config_without_stages_fine_tunes_and_one_with_too_deep_stages_is_told(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    words = (
        "train",
        "--data",
        data,
        "-o",
        tmp_path / "x",
        "--from",
        trained / "checkpoint.safetensors",
        "--threads",
        "1",
    )
    (tmp_path / "seed.json").write_text(json.dumps({"seed": 3, "size": TINY.size}))
    told = run(*words, "--config", tmp_path / "seed.json", "--dry-run", "--json")
    assert told.exit_code == 0, told.output
    assert [row["name"] for row in json.loads(told.output.splitlines()[-1])["plan"]] == [
        "SN-Net 1",
        "SN-Net 2",
        "DI-Net",
    ]
    deep = {"stages": [{"first": 2, "depth": 3, "steps": 4, "rate": 1e-3}]}
    (tmp_path / "deep.json").write_text(json.dumps(deep))
    assert code(*words, "--config", tmp_path / "deep.json", "--dry-run") == 6


@pytest.mark.slow
def test_fine_tuning_begins_at_the_checkpoint(data: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    start = trained / "checkpoint.safetensors"
    told = run(
        "train", "--data", data, "-o", out, "--from", start, "--dry-run", "--json", "--threads", "1"
    )
    assert told.exit_code == 0, told.output
    plan = json.loads(told.output.splitlines()[-1])["plan"]
    assert [row["name"] for row in plan] == ["SN-Net 1", "SN-Net 2", "DI-Net"]
    short = dataclasses.replace(
        TINY, stages=(Stage(0, 2, 1, 1e-9),), di_steps=0, log_every=1, validate_every=1
    )
    (tmp_path / "short.json").write_text(json.dumps(config.to_dict(short)))
    done = run(
        "train",
        "--data",
        data,
        "-o",
        tmp_path / "one",
        "--from",
        start,
        "--config",
        tmp_path / "short.json",
        "--threads",
        "1",
    )
    assert done.exit_code == 0, done.output
    best = max(r["val_ncc"] for r in scores(trained) if "val_ncc" in r and r["phase"] == 1)
    assert scores(tmp_path / "one")[-1]["val_ncc"] == pytest.approx(best, abs=1e-4)


def test_bad_input_is_told_with_its_code(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    other_cache = tmp_path / "other"
    other_cache.mkdir()
    (other_cache / "cache").symlink_to(trained / "cache")
    other = save_checkpoint(tmp_path / "other.safetensors", *tiny_networks(2.0))
    (tmp_path / "unknown.json").write_text('{"step": 3}')
    cases: list[tuple[int, str, tuple[str | Path, ...]]] = [
        (3, "no image", ("--data", empty, "-o", tmp_path / "x")),
        (3, "no such file", ("--data", tmp_path / "nowhere", "-o", tmp_path / "x")),
        (2, "--data", ("-o", tmp_path / "x")),
        (2, "step", ("--data", data, "-o", tmp_path / "x", "--config", tmp_path / "unknown.json")),
        (5, "--resume", ("--data", data, "-o", trained)),
        (5, "no training run", ("--resume", "-o", tmp_path / "x")),
        (2, "--resume", ("--resume", "-o", trained, "--seed", "3")),
        (2, "another spacing", ("--data", data, "-o", other_cache)),
        (6, "nope", ("--data", data, "-o", tmp_path / "x", "--from", "nope")),
        (
            6,
            "architecture",
            (
                "--data",
                data,
                "-o",
                tmp_path / "x",
                "--from",
                other,
                "--config",
                data / "config.json",
            ),
        ),
    ]
    for expected, word, words in cases:
        assert code("train", *words) == expected, words
        told = capsys.readouterr().err
        assert word in told
        assert "Traceback" not in told
        assert not (tmp_path / "x" / "config.json").exists()


def test_a_state_of_another_config_is_refused(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mixed"
    out.mkdir()
    (out / "cache").symlink_to(trained / "cache")
    (out / "state.safetensors").write_bytes((trained / "state.safetensors").read_bytes())
    settings = json.loads((trained / "config.json").read_text()) | {"smooth": 9.0}
    (out / "config.json").write_text(json.dumps(settings))
    assert code("train", "-o", out, "--resume") == 2
    assert "another config" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_in_mid_run_is_told_and_the_last_state_stays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    from hsyn_cli.io import atomic
    from hsyn_cli.training import session

    out, real, written = tmp_path / "full", Path.write_bytes, [0]

    def write_bytes(path: Path, content: bytes) -> int:
        if path.name == "state.safetensors":
            written[0] += 1
            if written[0] > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(session, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert code(*arguments(data, out, "--quiet")) == 5
    assert atomic.FREE_HINT.split(" or ")[0] in capsys.readouterr().err
    monkeypatch.undo()
    assert run("train", "-o", out, "--resume", "--threads", "1").exit_code == 0


def test_training_from_a_cache_needs_no_simpleitk() -> None:
    """So that a machine with a GPU, torch and little else can train."""
    program = (
        "import sys; sys.modules['SimpleITK'] = None; import hsyn_cli.cli; "
        "from hsyn_cli.training import session"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
