"""`hsyn doctor`: whether this installation works, as text for a bug report."""

from __future__ import annotations

import click

from hsyn_cli.cli.options import GroupedCommand, json_option, quiet_option


@click.command(cls=GroupedCommand, short_help="Tell whether this installation works.")
@quiet_option
@json_option
def doctor(quiet: bool, as_json: bool) -> None:
    """Tell whether this installation works, as text for a bug report.

    hsyn lists versions, cores, memory, the GPU and the weights with their hashes, and registers two
    tiny phantoms. That takes five seconds. Names of users are left out, and no data are named. The
    exit code is 12 if something is wrong; a line tells each thing and what to do.

    \b
    Examples:
      hsyn doctor
      hsyn doctor --json > doctor.json
    """
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar

    with progress_bar(quiet or as_json) as progress:
        found = api.doctor(progress)
    if as_json:
        click.echo(found.to_json(), nl=False)
    elif not quiet:
        click.echo(found.text(), nl=False)
    found.raise_wrong(shown=not (quiet or as_json))


COMMAND = doctor
