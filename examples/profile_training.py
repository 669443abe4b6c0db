#!/usr/bin/env python3
"""Speed of each phase of a training: steps per second, and the share spent outside convolutions.

    hsyn train --data scans/ -o run/ --dry-run        # makes run/cache
    python examples/profile_training.py run/ [--config config.json] [--device cuda]

The steps are those of `hsyn train` with the same config (default: hsyn's own), on the images in
run/cache. Needs hsyn, but not SimpleITK.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from hsyn_cli.training import loop
from hsyn_cli.training import phases as training_phases
from hsyn_cli.training.session import Session

STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    table = Table("phase", "steps/s", "convolutions", "the rest", "of it the longest")
    with Session(arguments.run, arguments.device) as session:
        session.configure(arguments.config, None, False, None)
        session.load_data(None, lambda step, fraction: None)
        kinds = [
            ProfilerActivity.CPU,
            *([ProfilerActivity.CUDA] if session.device.type == "cuda" else []),
        ]
        for phase in training_phases.phases(session.training, session.networks, session.source):
            pace = loop.seconds_per_step(
                phase, session.networks, session.training.batch, session.device, STEPS
            )
            with profile(activities=kinds) as found:
                for number in range(STEPS):
                    loop.step(phase, None, number, session.training.batch)
            key = (
                "self_device_time_total" if session.device.type == "cuda" else "self_cpu_time_total"
            )
            spent = {event.key: getattr(event, key) for event in found.key_averages()}
            whole = sum(spent.values())
            inside = sum(v for name, v in spent.items() if "conv" in name)
            rest = sorted(
                ((v, name) for name, v in spent.items() if "conv" not in name), reverse=True
            )[:3]
            longest = ", ".join(
                f"{name.removeprefix('aten::')} {100 * v / whole:.0f} %" for v, name in rest
            )
            shares = (f"{100 * inside / whole:.0f} %", f"{100 - 100 * inside / whole:.0f} %")
            table.add_row(phase.name, f"{1 / pace:.2f}", *shares, longest)
    Console().print(f"torch {torch.__version__}, {session.device}, {session.training.precision}")
    Console().print(table)


if __name__ == "__main__":
    main()
