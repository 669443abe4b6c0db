"""`hsyn train`: turn a folder of images into a checkpoint for `hsyn register --model`."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsyn_cli.cli.options import FILE, MACHINE, GroupedCommand, option, quiet_option, threads_option
from hsyn_cli.errors import Interrupted, MemoryLimitError, UsageError

if TYPE_CHECKING:
    from hsyn_cli.training.session import Plan, Session

DATA, RUN = "Data and start", "Run"
LESS_MEMORY = 'set smaller crops or another "precision" in --config, or use --device cpu'


@click.command(cls=GroupedCommand)
@option(
    "--data",
    type=FILE,
    heading=DATA,
    help="Folder of images, with label maps in its subfolder labels/, or a CSV with the columns "
    "image and labels.",
)
@option(
    "--config",
    "config_path",
    type=FILE,
    heading=DATA,
    help="Training config, like the config.json of a run; missing keys take their defaults.",
)
@option(
    "--from",
    "start",
    metavar="NAME|PATH",
    heading=DATA,
    help="Fine-tune this checkpoint, e.g. brain-t1.",
)
@option(
    "--out",
    "-o",
    type=FILE,
    required=True,
    heading=RUN,
    help="Folder of the run; created if missing.",
)
@option("--resume", is_flag=True, heading=RUN, help="Continue the run in --out.")
@option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    heading=RUN,
    help="Scale all steps to this time, as measured on this machine. If the default plan would get "
    "less than half of its steps, its finest level is left out.",
)
@option(
    "--stop-after",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    heading=RUN,
    help="Save the state and stop after this time; --resume continues.",
)
@option(
    "--dry-run",
    is_flag=True,
    heading=RUN,
    help="Prepare the data, print the planned steps, time and memory, and train nothing.",
)
@option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    heading=MACHINE,
    help="Device to train on.",
)
@threads_option
@option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    heading=MACHINE,
    help="Seed of weights, pairs and augmentation.",
)
@quiet_option
@option(
    "--json",
    "as_json",
    is_flag=True,
    heading=MACHINE,
    help="Print the log's records, one JSON object per line.",
)
def train(
    data: Path | None, config_path: Path | None, start: str | None, out: Path, resume: bool,
    minutes: float | None, stop_after: float | None, dry_run: bool, device: str,
    threads: int | None, seed: int | None, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train SN-Net and DI-Net on your own images.

    The folder of the run gets config.json, the cache of aligned images, log.jsonl, curves.png,
    state.safetensors to resume from, and checkpoint.safetensors to register with. For several GPUs
    or nodes, use torchrun -m hsyn_cli train ...

    \b
    Examples:
      hsyn train --data scans/ -o run/ --dry-run
      hsyn train --data scans/ -o run/ --from brain-t1 --minutes 30
      hsyn train -o run/ --resume
      hsyn register -m m.nii.gz -f f.nii.gz -o out/ \\
        --model run/checkpoint.safetensors
    """
    if resume and (config_path or start or minutes or seed is not None):
        raise UsageError(
            "--resume continues with the run's own config",
            "leave out --config, --from, --minutes and --seed",
        )
    from hsyn_cli import api
    from hsyn_cli.cli.progress import progress_bar

    with api.TrainingSession(out, device, threads) as session, _telling_what_is_kept(session):
        talks = session.rank == 0 and not quiet
        session.configure(config_path, start, resume, seed)
        with progress_bar(not talks) as progress:
            cache = session.load_data(data, progress)
        if talks and not as_json:
            for line in (
                *(f"left out: {text}" for text in cache.left_out),
                *(f"warning: {text}" for text in cache.warnings),
            ):
                click.echo(line, err=True)
        plan = session.plan(minutes)
        if talks:
            _show_plan(plan, len(cache.names), as_json)
        if not dry_run:
            _train(session, plan, stop_after, talks, as_json)


def _show_plan(plan: Plan, subjects: int, as_json: bool) -> None:
    rows = [
        {"name": p.name, "steps": p.steps, "seconds_per_step": round(p.seconds_per_step, 4)}
        for p in plan.phases
    ]
    if as_json:
        click.echo(
            json.dumps(
                {
                    "plan": rows,
                    "seconds": round(plan.seconds, 1),
                    "memory_mb": plan.memory_mb,
                    "finest_left_out": plan.finest_left_out,
                    "subjects": subjects,
                }
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("phase", "steps", "s per step", "minutes", box=None, pad_edge=False)
    for p in plan.phases:
        table.add_row(
            p.name,
            str(p.steps),
            f"{p.seconds_per_step:.2f}",
            f"{p.steps * p.seconds_per_step / 60:.1f}",
        )
    console = Console()
    console.print(table)
    memory = "" if plan.memory_mb is None else f", {plan.memory_mb / 1e3:.1f} GB of memory"
    if plan.finest_left_out:
        console.print(
            "too little time for the finest level: left out; a --config with its levels keeps it"
        )
    time = f"about {plan.seconds / 60:.0f} minutes"
    console.print(f"{subjects} subjects, {plan.training.precision}, {time}{memory}")


def _train(
    session: Session, plan: Plan, stop_after: float | None, talks: bool, as_json: bool
) -> None:
    from hsyn_cli.cli.progress import progress_bar

    ahead = [
        sum(p.steps * p.seconds_per_step for p in plan.phases[:k]) for k in range(len(plan.phases))
    ]
    try:
        with progress_bar(not talks or as_json, width=10) as progress, _stopping_on_usr1(session):
            for record in session.train(stop_after):
                phase = plan.phases[int(record["phase"])]
                done = ahead[int(record["phase"])] + int(record["step"]) * phase.seconds_per_step
                at = f"{phase.name} {record['step']}/{phase.steps}"
                pace = (
                    f"loss {float(record['loss']):.3f}, {float(record['steps_per_second']):.1f}/s"
                )
                progress(f"{at}, {pace}", done / max(plan.seconds, 1e-9))
                if talks and as_json:
                    click.echo(json.dumps(record))
                elif talks and (scores := _held_out(record)):
                    click.echo(f"{at}: held-out {', '.join(scores)}; {pace}")
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise MemoryLimitError("training ran out of memory", LESS_MEMORY) from error
        raise
    if talks and not as_json:
        if session.finished:
            use = f"hsyn register -m MOVING -f FIXED -o OUT --model {session.run.checkpoint}"
            click.echo(f"trained; use it with: {use}")
        else:
            click.echo(
                f"stopped on time; continue with: hsyn train -o {session.run.folder} --resume"
            )


def _held_out(record: Mapping[str, float | int | str]) -> list[str]:
    """The scores of a record by name."""
    return [
        f"{key.removeprefix('val_')} {float(value):.3f}"
        for key, value in record.items()
        if key.startswith("val_")
    ]


@contextlib.contextmanager
def _stopping_on_usr1(session: Session) -> Iterator[None]:
    """Let SIGUSR1, which batch queues send before they end a job, stop the training in time."""
    number = getattr(signal, "SIGUSR1", None)
    before = None if number is None else signal.getsignal(number)
    in_main = threading.current_thread() is threading.main_thread()
    if number is None or before in (None, signal.SIG_IGN) or not in_main:
        yield
        return
    signal.signal(number, lambda *details: session.stop())
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _telling_what_is_kept(session: Session) -> Iterator[None]:
    """Add to an interruption from where the run can go on."""
    try:
        yield
    except Interrupted as error:
        text = error.message.split(";")[0]
        if session.run.config.exists():
            text, hint = (
                f"{text}; the last state is in {session.run.state}",
                "continue with --resume",
            )
        elif session.run.cache.exists():
            text = f"{text}; the prepared images are in {session.run.cache}"
            hint = "give the same command to go on with them"
        else:
            raise
        raise type(error)(text, hint) from None


COMMAND = train
