"""The command line. Only `run` turns errors into a line, a hint and an exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

import click

from hsyn_cli import __version__, plugins
from hsyn_cli.cli import signals, streams
from hsyn_cli.cli.endings import interrupted, printed, say
from hsyn_cli.devices import keep_freed_memory
from hsyn_cli.errors import InputError, Interrupted
from hsyn_cli.results.commits import commits
from hsyn_cli.results.faults import known

COMMANDS = "hsyn_cli.cli.commands"  # each file defines one command as COMMAND


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
    except Exception as error:
        told = known(error)
        if told is None:
            raise
        return say(told)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the console script."""
    streams.prepare()
    keep_freed_memory()
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
