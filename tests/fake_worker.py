"""A worker that registers nothing: each task's option "do" says how it behaves.

It appends "id search" to the study's ran.txt when a task begins.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def answer(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def outcome(code: int = 0, error: str = "", files: tuple[str, ...] = ()) -> None:
    problems = [error] if code == 10 else []
    answer(
        outcome={
            "exit_code": code,
            "error": error,
            "problems": problems,
            "files": files,
            "seconds": 0.1,
            "peak_memory_mb": 5.0,
        }
    )


def hang() -> None:
    """Until the process that started this one dies."""
    sys.stdin.read()


def work(task: dict[str, object]) -> None:
    study, folder = Path(str(task["study"])), Path(str(task["folder"]))
    options = task["options"]
    assert isinstance(options, dict)
    do, search = options.get("do", "ok"), options["search"]
    earlier = (study / "ran.txt").read_text() if (study / "ran.txt").exists() else ""
    with (study / "ran.txt").open("a") as stream:
        stream.write(f"{task['id']} {search}\n")
    answer(step="starting", fraction=0.0)
    if (
        do == "hang"
        or (do == "poor then hang" and search == "full")
        or (do == "slow once" and f"{task['id']} " not in earlier)
    ):
        hang()
    elif do == "eat":
        eaten = bytearray(os.urandom(1 << 20)) * 200
        hang()
        assert eaten
    elif do == "die" or (do == "die once" and f"{task['id']} " not in earlier):
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "leave":
        sys.exit(3)
    elif do == "bad input":
        outcome(3, "no such file")
    elif do.startswith("code "):
        outcome(int(do.removeprefix("code ")), "not the fault of the pair")
    elif do == "bug":
        outcome(1, "a bug: ValueError: x")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "out.txt").write_text(search)
        files = ((folder / "out.txt").relative_to(study).as_posix(),)
        poor = do == "poor" or (do.startswith("poor ") and search == "near")
        outcome(*((10, "do not trust this", files) if poor else (0, "", files)))


for line in sys.stdin:
    work(json.loads(line))
