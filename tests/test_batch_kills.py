"""A driver that is killed again and again: no pair runs twice but what was in flight."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from fake_cohorts import ran

import hsyn_cli
from hsyn_cli.cohort import status as statuses

PLACES = (Path(hsyn_cli.__file__).parents[1], Path(__file__).parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PLACES))}
DRIVER = """
import sys
from pathlib import Path
from fake_cohorts import FAKE, job
from hsyn_cli.cohort import batch
from hsyn_cli.cohort.sources import local
local.COMMAND = FAKE
folder = Path(sys.argv[1])
jobs = [job(folder / "images", f"p{k:02}") for k in range(60)]
batch.run(folder / "study", jobs, batch.Work(2, threads=1), lambda tally: lambda news: None)
"""
KILLS = 6


@pytest.mark.skipif(os.name != "posix", reason="follows a killed driver at once")
def test_killed_at_random_moments_nothing_else_runs_twice(tmp_path: Path) -> None:
    study, in_flight = tmp_path / "study", Counter[str]()
    random = Random(1)  # noqa: S311
    for _ in range(KILLS):
        before = len(ran(study))
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], env=ENVIRONMENT)
        while len(ran(study)) == before and driver.poll() is None:
            time.sleep(0.005)
        time.sleep(random.random() * 0.1)
        driver.kill()
        driver.wait()
        for path in (study / "status").glob("p*.json"):
            found = statuses.read(path)
            assert found is not None
            in_flight[found.id] += found.state == "running"
    subprocess.run([sys.executable, "-c", DRIVER, str(tmp_path)], env=ENVIRONMENT, check=True)
    times = Counter(line.split()[0] for line in ran(study))
    assert len(times) == 60
    assert not {name for name, count in times.items() if count > 1 + in_flight[name]}
    assert sum(in_flight.values()) > 0
    assert all(path.suffix == ".json" for path in (study / "status").glob("*"))
    assert len(list((study / "status").glob("p*.json"))) == 60
