"""A process that has imported hsyn and forks for each case, so that a case takes milliseconds.

It is a process of its own: the tests' has threads of torch and ITK, which no fork survives.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HANG_SECONDS = 20.0
MB = 1 << 20
ALLOWED_MB = 1024  # above the uncompressed size
WARNINGS = "default,ignore::ResourceWarning"  # those that users see
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Outcome:
    """What became of the child.

    Attributes:
        answer: of the reader or the command; {} if it died.
        oracles: see `reading.oracles`; {} for commands, or if that died.
        signal: that ended the child before its answer; 0: none.
        seconds: until the answer or the end.
        memory_mb: the most memory that the answer took above what the warm process had.
        said: what it wrote to stdout and stderr.
    """

    answer: dict[str, Any]
    oracles: dict[str, Any] = field(default_factory=dict)
    signal: int = 0
    seconds: float = 0.0
    memory_mb: float = 0.0
    said: str = ""


class Warm:
    """The client's side: a server process, and a folder that is emptied after each case."""

    def __init__(self, kind: str) -> None:
        """`kind`: "reader" or "commands"; the latter also loads torch."""
        self.folder = Path(tempfile.mkdtemp(prefix="hsyn-fuzz-"))
        paths = [str(TESTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": WARNINGS}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from fuzzing import warm; warm.main({kind!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def __call__(self, request: Any, seconds: float = HANG_SECONDS, limit_mb: int = 0) -> Outcome:
        """Run one request in a fork, for at most `seconds`; `limit_mb`: of its memory."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        work = self.folder / "case"
        work.mkdir()
        pickle.dump((request, str(work), seconds, limit_mb), self.process.stdin)
        self.process.stdin.flush()
        outcome: Outcome = pickle.load(self.process.stdout)  # noqa: S301
        shutil.rmtree(work)
        return outcome

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


Step = Callable[[Any, Path, Callable[[Any], None]], None]


def serve(step: Step, requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer until the client closes. `step` sends its answers, in the child."""
    while True:
        try:
            request, work, seconds, limit_mb = pickle.load(requests)  # noqa: S301
        except EOFError:
            return
        pickle.dump(_forked(step, request, Path(work), seconds, limit_mb), replies)
        replies.flush()


def _forked(step: Step, request: Any, work: Path, seconds: float, limit_mb: int) -> Outcome:
    (work.parent / "said").write_bytes(b"")
    end, start = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(end)
        _child(step, request, work, start, limit_mb)
    os.close(start)
    data, hung = _all_of(end, began + seconds)
    if hung:
        os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # what it started; no group if it was young
            os.killpg(child, signal.SIGKILL)
    os.close(end)
    status = os.waitpid(child, 0)[1]
    took = time.monotonic() - began
    said = (work.parent / "said").read_text("utf-8", "replace")[-4000:]
    parts = _loaded(data)
    if parts:
        answer, took, memory = parts[0]
        return Outcome(answer, parts[1] if parts[1:] else {}, 0, took, memory, said)
    ended = signal.SIGALRM if hung else (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 255)
    return Outcome({}, signal=int(ended), seconds=took, said=said)


def _all_of(end: int, deadline: float) -> tuple[bytes, bool]:
    """All that the child writes, and whether it was late."""
    parts: list[bytes] = []
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([end], [], [], left)[0]:
            return b"".join(parts), True
        part = os.read(end, MB)
        if not part:
            return b"".join(parts), False
        parts.append(part)


def _loaded(data: bytes) -> list[Any]:
    import io

    stream, parts = io.BytesIO(data), []
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            parts.append(pickle.load(stream))  # noqa: S301
    return parts


def _child(step: Step, request: Any, work: Path, pipe: int, limit_mb: int) -> None:
    """Run `step` with limits, and leave."""
    os.setsid()
    said = os.open(work.parent / "said", os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(said, stream)
    os.chdir(work)
    if limit_mb:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGESIZE") + limit_mb * MB
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def send(answer: Any) -> None:
        nonlocal began
        if began:
            took = time.monotonic() - began
            memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            answer, began = (answer, took, memory), 0
        data = pickle.dumps(answer)
        while data:
            data = data[os.write(pipe, data) :]

    try:
        step(request, work, send)
    except BaseException:  # noqa: BLE001
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _reader_step(request: Any, work: Path, send: Callable[[Any], None]) -> None:
    from fuzzing import reading

    path = request.write(work)
    answer = reading.read(request, path)
    sys.stdout.flush()
    sys.stderr.flush()
    answer["said"] = (work.parent / "said").read_text("utf-8", "replace")[-2000:]
    send(answer)
    send(reading.oracles(path))


def main(kind: str) -> None:
    """The server's side: answers on the stdout that it was started with."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if kind == "reader":
        from fuzzing import reading

        reading.warm()
        step: Step = _reader_step
    else:
        from fuzzing import running

        running.warm()
        step = running.step
    gc.freeze()
    gc.disable()  # a collection would write to every page that the children share
    with replies:
        serve(step, sys.stdin.buffer, replies)
