"""The last words of a run: an error in one line, and whether its files were written."""

from __future__ import annotations

import errno
import sys

import click

from hsyn_cli.cli import streams
from hsyn_cli.errors import HsynError, Interrupted, OutputError
from hsyn_cli.results.commits import commits


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
