"""`hsyn weights`: list the installed checkpoints."""

from __future__ import annotations

import json

import click


@click.group()
def weights() -> None:
    """Show the installed checkpoints (trained networks)."""


@weights.command("list", short_help="List checkpoints with training data, licence, scores.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_(as_json: bool) -> None:
    """List every checkpoint with its training data, licence and measured scores."""
    from hsyn_cli import api

    checkpoints = api.checkpoints()
    if as_json:
        rows = [
            {
                "name": info.name,
                "path": str(info.path),
                "sha256": info.sha256,
                "present": info.path.is_file(),
                "parameters": info.parameters,
                "training_data": info.training_data,
                "licence": info.licence,
                "scores": dict(info.scores),
            }
            for info in checkpoints
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    if not checkpoints:
        click.echo("no checkpoint is installed")
    for info in checkpoints:
        default = " (default)" if info.is_default else ""
        size = f"{info.parameters:,} parameters" if info.path.is_file() else "file missing"
        click.secho(f"{info.name}{default}", bold=True)
        click.echo(f"  file: {info.path} ({size})")  # not wrapped, so that the path can be copied
        about = {"trained on": info.training_data, "licence": info.licence}
        for name, value in {**about, **info.scores}.items():
            click.echo(click.wrap_text(f"{name}: {value}", 78, "  ", "      "))


COMMAND = weights
