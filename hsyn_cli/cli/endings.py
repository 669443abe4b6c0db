"""The last words of a run: an error in one line, and whether its files were written."""

from __future__ import annotations

import errno
import os
import sys

import click

from hsyn_cli.cli import streams
from hsyn_cli.errors import HsynError, InputError, Interrupted, OutputError
from hsyn_cli.results.commits import commits

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
DENIED = (errno.EACCES, errno.EPERM)


def say(error: HsynError) -> int:
    """Print the error, what more there is to it and its hint, and return its exit code."""
    if isinstance(error, Interrupted) and sys.stderr.isatty():
        click.echo(err=True)  # the terminal shows ^C
    click.secho(f"error: {streams.one_line(error.message)}", fg="red", err=True)
    for line in error.more:
        click.echo(f"  {streams.one_line(line)}", err=True)
    if error.hint:
        click.echo(f"hint: {streams.one_line(error.hint)}", err=True)
    return error.exit_code


def interrupted(error: Interrupted, before: int) -> Interrupted:
    """`error` with what was written. `before`: `commits` at the start of the run."""
    written = "all files were written" if commits() > before else "nothing was written"
    return type(error)(f"{error.message}; {written}")


def of_the_system(error: OSError) -> HsynError:
    """The error for an OSError that no other module told; of writing, if reading were allowed."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return InputError(f"the system refuses: {reason}", "check paths and permissions")
    path = os.fsdecode(error.filename)
    new = os.access(os.path.dirname(path) or ".", os.X_OK) and not os.path.lexists(path)
    unwritten = new or os.access(path, os.R_OK)
    if error.errno in UNWRITABLE or (error.errno in DENIED and unwritten):
        return OutputError(f"{path}: {reason}", "choose a folder you may write to")
    return InputError(f"{path}: {reason}", "check the path, and the permissions of its folders")


def printed(code: int) -> int:
    """The exit code once all is printed: 5 if stdout takes no results.

    A reader that closed its pipe early, as head does, has what it wanted.
    """
    error = streams.failure()
    if code or error is None or error.errno == errno.EPIPE:
        return code
    written = "; all files were written" if commits() else ""
    text = f"standard output cannot be written ({error.strerror}){written}"
    return say(OutputError(text, "send it to a place that takes it"))
