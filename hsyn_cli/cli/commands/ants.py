"""`hsyn ants`: scripts written for ANTs run with one word changed."""

from __future__ import annotations

import click

from hsyn_cli.cli.ants.apply import apply
from hsyn_cli.cli.ants.register import register
from hsyn_cli.errors import UsageError

WORDS = {
    "antsRegistrationSyN": "register", "antsRegistrationSyNQuick": "register",
    "antsApplyTransforms": "apply",
    "antsRegistration": "register with the flags of antsRegistrationSyN.sh",
}  # fmt: skip


class AntsGroup(click.Group):
    """The group; it knows the names of the programs of ANTs."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = WORDS.get(args[0].removesuffix(".sh"))
        if word:
            raise UsageError(f"hsyn ants has no command {args[0]}", f"give hsyn ants {word}")
        return super().resolve_command(ctx, args)


@click.group(cls=AntsGroup, short_help="Take command lines of ANTs: register and apply.")
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
