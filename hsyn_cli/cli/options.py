"""Options grouped under headings, so that a long --help stays readable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from hsyn_cli.cli.streams import one_line

F = TypeVar("F", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option and the heading that lists it."""

    def __init__(self, *args: Any, heading: str = "Options", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.heading = heading


class GroupedCommand(click.Command):
    """A command whose --help lists its options by heading, both in the order of declaration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                rows.setdefault(getattr(parameter, "heading", "Other"), []).append(record)
        for heading, records in rows.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def option(*names: str, heading: str, **settings: Any) -> Callable[[F], F]:
    """`click.option` under a heading."""
    return click.option(*names, cls=GroupedOption, heading=heading, **settings)


def warn(lines: Iterable[str]) -> None:
    """Print each warning as a line on stderr."""
    for line in lines:
        click.secho(f"warning: {one_line(line)}", fg="yellow", err=True)


FILE = click.Path(path_type=Path)
MACHINE, OUTPUT = "Machine and messages", "Output"
force_option = option("--force", is_flag=True, heading=OUTPUT, help="Replace outputs that exist.")
device_option = option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    heading=MACHINE,
    help="Device for the networks.",
)
threads_option = option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    heading=MACHINE,
    help="Number of CPU threads.  [default: all cores]",
)
quiet_option = option("--quiet", is_flag=True, heading=MACHINE, help="Print nothing but errors.")
json_option = option(
    "--json", "as_json", is_flag=True, heading=MACHINE, help="Print the result as JSON."
)
