"""One driver a shard: a second one is refused, and a dead one is followed by the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import hsyn_cli
from hsyn_cli.cohort import drivers
from hsyn_cli.cohort.drivers import DEAD, Driver, driving
from hsyn_cli.cohort.shards import Shard
from hsyn_cli.errors import OutputError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(hsyn_cli.__file__).parents[1])}
HOLD = """
import sys
from pathlib import Path
from hsyn_cli.cohort.drivers import driving
from hsyn_cli.cohort.shards import Shard
from hsyn_cli.errors import OutputError
sys.stdin.readline()
try:
    with driving(Path(sys.argv[1]), Shard(*map(int, sys.argv[2:]))):
        print("in", flush=True)
        sys.stdin.readline()
except OutputError as error:
    print(error.message, flush=True)
"""


class Other:
    """Another process that drives a shard."""

    def __init__(self, study: Path, index: int = 1, count: int = 1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(study), str(index), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    process = Other(tmp_path)
    yield process
    process.close()


def files(study: Path) -> list[str]:
    return sorted(path.name for path in (study / "status").glob("*"))


def left(study: Path, name: str, driver: Driver, silent: float) -> None:
    """The file of a driver that gave no sign of life for so many seconds."""
    path = study / "status" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(driver)))
    now = path.stat().st_mtime
    os.utime(path, (now - silent, now - silent))


def test_a_second_driver_is_refused_until_the_first_is_over(tmp_path: Path, other: Other) -> None:
    other.go()
    assert other.says() == "in"
    with (
        pytest.raises(OutputError, match="another hsyn batch works on all pairs") as caught,
        driving(tmp_path, Shard()),
    ):
        pass
    assert f"process {other.process.pid} on " in caught.value.message
    assert files(tmp_path) == ["all.1.driver"]
    other.go()
    other.process.wait()
    assert files(tmp_path) == []
    with driving(tmp_path, Shard()) as (_, others):
        assert others.living() == []


def test_a_killed_driver_is_followed_at_once_even_if_nobody_reaped_it(
    tmp_path: Path, other: Other
) -> None:
    other.go()
    assert other.says() == "in"
    other.kill()
    os.waitid(os.P_PID, other.process.pid, os.WEXITED | os.WNOWAIT)
    with driving(tmp_path, Shard()):
        assert files(tmp_path) == ["all.2.driver"]
    assert files(tmp_path) == []


def test_another_process_with_its_number_is_not_taken_for_it(tmp_path: Path) -> None:
    me = Driver.here(Shard())
    if not me.born:
        pytest.skip("the system does not tell when a process began")
    left(tmp_path, "all.1.driver", replace(me, born=me.born - 1), 0.0)
    with driving(tmp_path, Shard()):
        pass


def test_a_driver_elsewhere_counts_as_dead_when_it_is_silent(tmp_path: Path) -> None:
    elsewhere = replace(Driver.here(Shard()), host="node7", place="node7")
    left(tmp_path, "all.4.driver", elsewhere, DEAD - 30)
    with pytest.raises(OutputError, match="on node7"), driving(tmp_path, Shard()):
        pass
    left(tmp_path, "all.4.driver", elsewhere, DEAD + 30)
    with driving(tmp_path, Shard()):
        assert files(tmp_path) == ["all.5.driver"]


@pytest.mark.parametrize(
    ("mine", "allowed"),
    [(Shard(2, 3), True), (Shard(1, 3), False), (Shard(), False), (Shard(2, 4), False)],
)
def test_shards_of_one_count_run_side_by_side(mine: Shard, allowed: bool, tmp_path: Path) -> None:
    elsewhere = replace(Driver.here(Shard(1, 3)), host="node7", place="node7")
    left(tmp_path, "1-of-3.1.driver", elsewhere, 1.0)
    if allowed:
        with driving(tmp_path, mine) as (_, others):
            assert [other.host for other in others.living()] == ["node7"]
    else:
        with pytest.raises(OutputError, match="shard 1/3"), driving(tmp_path, mine):
            pass


def test_of_drivers_that_start_at_once_no_two_win(tmp_path: Path) -> None:
    dead = replace(Driver.here(Shard()), pid=2**22 + 1, born=5)
    left(tmp_path, "all.1.driver", dead, 0.0)
    several = [Other(tmp_path) for _ in range(4)]
    try:
        for process in several:
            process.go()
        said = [process.says() for process in several]
    finally:
        for process in several:
            process.close()
    assert said.count("in") <= 1
    assert all(line == "in" or "another hsyn batch" in line for line in said)
    with driving(tmp_path, Shard()):
        pass  # nobody is kept out by the dead


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2)])
def test_who_takes_over_removes_the_files_of_the_dead(shard: Shard, tmp_path: Path) -> None:
    elsewhere = replace(Driver.here(Shard(1, 3)), host="node7", place="node7")
    left(tmp_path, "1-of-3.1.driver", elsewhere, DEAD + 30)
    with driving(tmp_path, shard):
        assert files(tmp_path) == [f"{shard.name}.1.driver"]


def test_the_dead_of_a_shard_beside_stay(tmp_path: Path) -> None:
    elsewhere = replace(Driver.here(Shard(1, 3)), host="node7", place="node7")
    left(tmp_path, "1-of-3.1.driver", elsewhere, DEAD + 30)
    with driving(tmp_path, Shard(2, 3)):
        assert files(tmp_path) == ["1-of-3.1.driver", "2-of-3.1.driver"]


def test_a_driver_that_was_taken_for_dead_learns_of_it(tmp_path: Path) -> None:
    with driving(tmp_path, Shard()) as (sign, others):
        others.check()
        sign.unlink()
        with pytest.raises(OutputError, match="took this one for dead"):
            others.check()
        with pytest.raises(OutputError, match="took this one for dead"):
            others.living()
        later = replace(Driver.here(Shard()), host="node7", place="node7")
        left(tmp_path, sign.name, later, 0.0)
        with pytest.raises(OutputError, match="took this one for dead"):
            others.check()
    assert files(tmp_path) == [sign.name]  # it is the later driver's


def test_a_silent_driver_finds_out_by_its_next_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "BEAT", 0.01)
    before = set(threading.enumerate())
    with driving(tmp_path, Shard()) as (sign, others):
        (beat,) = set(threading.enumerate()) - before
        sign.unlink()
        beat.join(20)
        left(tmp_path, sign.name, Driver.here(Shard()), 0.0)
        with pytest.raises(OutputError, match="took this one for dead"):
            others.check()


def test_a_study_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "study").write_text("")
    with pytest.raises(OutputError), driving(tmp_path / "study", Shard()):
        pass
