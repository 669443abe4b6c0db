"""`hsyn weights`: the checkpoints that are installed."""

from __future__ import annotations

import json

import click


@click.group()
def weights() -> None:
    """Show the trained networks that are installed."""


@weights.command("list", short_help="Show every checkpoint with its data, licence, scores.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_(as_json: bool) -> None:
    """Name, training data, licence and measured scores of every checkpoint."""
    from hsyn_cli import weights as store

    checkpoints = store.available()
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
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not checkpoints:
        click.echo("no checkpoint is installed")
    for info in checkpoints:
        default = " (default)" if info.name == store.DEFAULT else ""
        size = f"{info.parameters:,} parameters" if info.path.is_file() else "file missing"
        click.secho(f"{info.name}{default}", bold=True)
        click.echo(f"  file: {info.path} ({size})")  # not wrapped: a path to copy
        about = {"trained on": info.training_data, "licence": info.licence}
        for name, value in {**about, **info.scores}.items():
            click.echo(click.wrap_text(f"{name}: {value}", 78, "  ", "      "))
