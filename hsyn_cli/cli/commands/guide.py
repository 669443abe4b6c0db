"""`hsyn guide`: show the guides in the terminal, offline."""

from __future__ import annotations

import importlib.resources
import re
import shlex
import textwrap

import click

from hsyn_cli.cli.options import GroupedCommand
from hsyn_cli.errors import UsageError

WIDTH, NAMES = 80, 17  # columns
SHELL = re.compile(r"(?<=^```sh\n).*?(?=^```)", re.DOTALL | re.MULTILINE)  # the lines of a block
BESIDE = re.compile(r"(?<= \\)(?: |\x1b\[[0-9;]*m)+$", re.MULTILINE)  # a backslash that joins lines


@click.command(cls=GroupedCommand, short_help="Read a guide in the terminal.")
@click.argument("topic", required=False)
def guide(topic: str | None) -> None:
    """Read the guide on TOPIC. Without TOPIC, list all guides.

    \b
    Examples:
      hsyn guide
      hsyn guide fields
      hsyn guide chest-ct
    """
    texts = {
        file.name.removesuffix(".md"): file.read_text(encoding="utf-8")
        for file in importlib.resources.files("hsyn_cli").joinpath("guide").iterdir()
        if file.name.endswith(".md")
    }
    if topic is None:
        for name in sorted(texts):
            text = _summary(texts[name])
            click.echo(click.wrap_text(f"{name:<{NAMES}}{text}", WIDTH - 1, "", " " * NAMES))
        click.echo("\nRead one: hsyn guide TOPIC")
        return
    if topic not in texts:
        raise UsageError(
            f"there is no guide {topic!r}", f"choose one of {', '.join(sorted(texts))}"
        )
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    width = min(console.width, WIDTH)
    with console.capture() as capture:
        console.print(Markdown(_broken(texts[topic], width - 2)), width=width)
    shown = BESIDE.sub(lambda end: end[0].replace(" ", ""), capture.get())
    if console.is_terminal:
        click.echo_via_pager(shown)
    else:
        click.echo(shown, nl=False)


def _broken(text: str, width: int) -> str:
    """The same with long commands broken as a shell takes them, so that they can be copied."""

    def broken(line: str) -> str:
        command, more = line.removesuffix(" \\"), line.endswith(" \\")
        if len(line) <= width or len(shlex.split(command)) != len(command.split()):
            return line  # a quoted space is no place to break
        parts = textwrap.wrap(
            command, width - 2, subsequent_indent="    ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        return " \\\n".join(parts) + " \\" * more

    return SHELL.sub(lambda block: "\n".join(map(broken, block[0].split("\n"))), text)


def _summary(text: str) -> str:
    """The first sentence below the title, without `This guide`."""
    sentence = " ".join(text.split("\n\n")[1].split()).split(". ")[0]
    return sentence.removeprefix("This guide ").rstrip(".").replace("`", "")


COMMAND = guide
