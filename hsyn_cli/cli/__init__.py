"""The command line. `main` is the one place where errors become a line, a hint and an exit code."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from hsyn_cli import __version__
from hsyn_cli.cli.apply_field import apply_field
from hsyn_cli.cli.compose import compose
from hsyn_cli.cli.convert import convert
from hsyn_cli.cli.evaluate import evaluate
from hsyn_cli.cli.invert import invert
from hsyn_cli.cli.jacobian import jacobian
from hsyn_cli.cli.register import register
from hsyn_cli.cli.report import report
from hsyn_cli.cli.train import train
from hsyn_cli.cli.weights import weights
from hsyn_cli.errors import HsynError, Interrupted, MemoryLimitError, Terminated

OUT_OF_MEMORY = ("out of memory", "allocate memory", "bad_alloc")  # torch on GPU, torch on CPU and ITK, C++
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


for command in (
    register, apply_field, invert, compose, jacobian, convert, evaluate, report, train, weights,
):  # fmt: skip
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; see `errors` for the codes."""
    try:
        code = cli.main(list(arguments), prog_name="hsyn", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _tell(Interrupted("interrupted; nothing was written"))
    except HsynError as error:
        return _tell(error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
            where = "the GPU is out of memory" if "CUDA" in str(error) else "out of memory"
            hint = LESS_MEMORY if where == "out of memory" else f"{LESS_MEMORY}, or use --device cpu"
            return _tell(MemoryLimitError(where, hint))
        raise
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    _keep_freed_memory()
    gc.set_threshold(50_000)  # importing torch makes many objects and no garbage
    code = run(sys.argv[1:])
    gc.freeze()  # else Python looks through all of torch for garbage again before it ends
    sys.exit(code)


def _keep_freed_memory() -> None:
    """Have glibc, where it is, keep what was freed for what comes next, instead of giving it back to the system page by page.

    A registration allocates and frees volumes of tens of MB by the hundred: a seventh of its time went into fresh pages.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted("interrupted; nothing was written")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated("terminated; nothing was written")


def _tell(error: HsynError) -> int:
    if isinstance(error, Interrupted) and sys.stderr.isatty():
        click.echo(err=True)  # the terminal shows ^C
    click.secho(f"error: {' '.join(error.message.split())}", fg="red", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    return error.exit_code
