"""The command line. Only this module turns errors into a line, a hint and an exit code."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from hsyn_cli import __version__, plugins
from hsyn_cli.errors import HsynError, Interrupted, MemoryLimitError, Terminated

COMMANDS = "hsyn_cli.cli.commands"  # each file defines one command as COMMAND
# How torch on a GPU, torch on a CPU and ITK, and C++ report it.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "bad_alloc")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
LESS_MEMORY = "try --preset fast, close other programs, or resample both images to larger voxels"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hsyn", message="%(prog)s %(version)s")
def cli() -> None:
    """Symmetric, invertible registration of 3-D medical images.

    \b
    Example:
      hsyn register -m moving.nii.gz -f fixed.nii.gz -o out/
    """


for name in plugins.names(COMMANDS):
    cli.add_command(plugins.load(COMMANDS, name).COMMAND)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; see `errors` for the codes."""
    try:
        code = cli.main(list(arguments), prog_name="hsyn", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _say(Interrupted("interrupted; nothing was written"))
    except HsynError as error:
        return _say(error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
            gpu = "CUDA" in str(error)
            message = "the GPU is out of memory" if gpu else "out of memory"
            hint = f"{LESS_MEMORY}, or use --device cpu" if gpu else LESS_MEMORY
            return _say(MemoryLimitError(message, hint))
        raise
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    _keep_freed_memory()
    gc.set_threshold(50_000)  # importing torch creates many objects and no garbage
    code = run(sys.argv[1:])
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


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted("interrupted; nothing was written")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated("terminated; nothing was written")


def _say(error: HsynError) -> int:
    if isinstance(error, Interrupted) and sys.stderr.isatty():
        click.echo(err=True)  # the terminal shows ^C
    click.secho(f"error: {' '.join(error.message.split())}", fg="red", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    return error.exit_code
