"""`hsyn ants`: scripts written for ANTs run with one word changed."""

from __future__ import annotations

import click

from hsyn_cli.cli.ants.apply import apply
from hsyn_cli.cli.ants.register import register


@click.group(short_help="Take command lines of ANTs: register and apply.")
def ants() -> None:
    """Take command lines of ANTs, flag for flag.

    \b
      antsRegistrationSyN.sh, antsRegistrationSyNQuick.sh  ->  hsyn ants register
      antsApplyTransforms                                  ->  hsyn ants apply

    See `hsyn guide coming-from`.
    """


ants.add_command(register)
ants.add_command(apply)

COMMAND = ants
