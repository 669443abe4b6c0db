"""The command line. Only `run` turns errors into a line, a hint and an exit code."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Sequence

import click

from hsyn_cli import __version__, plugins
from hsyn_cli.cli import signals, streams
from hsyn_cli.cli.endings import interrupted, of_the_system, printed, say
from hsyn_cli.errors import HsynError, InputError, Interrupted, MemoryLimitError
from hsyn_cli.results.commits import commits

COMMANDS = "hsyn_cli.cli.commands"  # each file defines one command as COMMAND
# How torch on a GPU, torch on a CPU and ITK, and C++ report it.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "bad_alloc")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
LESS_MEMORY = "try --preset fast, close other programs, or resample both images to larger voxels"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hsyn", message="%(prog)s %(version)s")
def cli() -> None:
    """Symmetric, invertible registration of medical images, 3-D or 2-D.

    \b
    Example:
      hsyn register -m moving.nii.gz -f fixed.nii.gz -o out/
    """
    try:
        os.getcwd()
    except OSError as error:  # without one, a library of torch ends the process
        raise InputError("the current folder is gone", "change to one that exists") from error


for name in plugins.names(COMMANDS):
    cli.add_command(plugins.load(COMMANDS, name).COMMAND)


def run(arguments: Sequence[str], watch: signals.Watch | None = None) -> int:
    """Run one command line and return its exit code; see `errors` for the codes.

    `watch`: the signals of the run. If one of them ended it, hsyn tells what it wrote.
    """
    before = commits()
    try:
        if watch is not None:
            watch.start()
        return _run(arguments)
    except Interrupted as error:
        if watch is not None and error is watch.caught:
            error = interrupted(error, before)
        return say(error)
    except (KeyboardInterrupt, click.Abort):
        return say(interrupted(Interrupted("interrupted"), before))


def _run(arguments: Sequence[str]) -> int:
    try:
        code = cli.main(list(arguments), prog_name="hsyn", standalone_mode=False)
    except click.ClickException as error:
        vars(error)["message"] = streams.one_line(error.message)
        error.show()
        return error.exit_code
    except Interrupted:
        raise
    except HsynError as error:
        return say(error)
    except OSError as error:
        return say(of_the_system(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
            gpu = "CUDA" in str(error)
            message = "the GPU is out of memory" if gpu else "out of memory"
            hint = f"{LESS_MEMORY}, or use --device cpu" if gpu else LESS_MEMORY
            return say(MemoryLimitError(message, hint))
        raise
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the console script."""
    streams.prepare()
    _keep_freed_memory()
    gc.set_threshold(50_000)  # importing torch creates many objects and no garbage
    watch = signals.Watch()
    code = 1
    try:
        code = run(sys.argv[1:], watch)
        watch.stop()
    except Interrupted:  # by a signal that came when the run was over
        watch.stop()
    code = printed(code)
    gc.freeze()  # spares Python a last search for garbage through all of torch
    sys.exit(code)


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system page by page.

    A registration allocates and frees hundreds of volumes of tens of MB. Without this, fresh pages
    took a seventh of its time. Other C libraries are left alone.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
