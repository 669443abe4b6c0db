"""`hsyn weights`: the checkpoints that are installed."""

from __future__ import annotations

import json

import click


@click.group()
def weights() -> None:
    """Show the trained networks that are installed."""


@weights.command("list")
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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "parameters", "training data", "licence", "scores")
    for info in checkpoints:
        size = f"{info.parameters:,}" if info.path.is_file() else "file missing"
        scores = "\n".join(f"{name}: {value}" for name, value in info.scores.items())
        table.add_row(*(Text(part) for part in (info.name, size, info.training_data, info.licence, scores)))
    Console().print(table if checkpoints else "no checkpoint is installed")
