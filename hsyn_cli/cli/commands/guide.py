"""`hsyn guide`: show the guides in the terminal, offline."""

from __future__ import annotations

import importlib.resources

import click

from hsyn_cli.cli.options import GroupedCommand
from hsyn_cli.errors import UsageError

WIDTH, NAMES = 80, 17  # columns


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
    with console.capture() as capture:
        console.print(Markdown(texts[topic]), width=min(console.width, WIDTH))
    if console.is_terminal:
        click.echo_via_pager(capture.get())
    else:
        click.echo(capture.get(), nl=False)


def _summary(text: str) -> str:
    """The first sentence below the title, without `This guide`."""
    sentence = " ".join(text.split("\n\n")[1].split()).split(". ")[0]
    return sentence.removeprefix("This guide ").rstrip(".").replace("`", "")


COMMAND = guide
