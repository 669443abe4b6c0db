#!/usr/bin/env python3
"""Damage files of every format and see what hsyn makes of them.

    python examples/fuzz.py [--minutes N] [--seed S] [--reader 10000] [--commands 300]

Each example is one seed: a small valid file, in most cases damaged, that the reader or a whole
command gets in a process of its own. What is read must be what was written, everything else must
be refused in one line. The script prints a line for each seed that fails, keeps its files in a
folder, and ends with a summary and exit code 1 if any failed. To repeat seed 123 alone:

    python examples/fuzz.py --seed 123 --reader 1 --commands 0

It needs the extra "test" and runs on Linux.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzzing import runs
from fuzzing.runs import Example
from fuzzing.warm import Warm
from rich.console import Console
from rich.table import Table

KEPT = 5  # folders of each kind of failure


def examples(first: int, reader: int, commands: int, minutes: float | None) -> Iterator[Example]:
    """`reader` and `commands` examples from seed `first` on; with `minutes`, for so long.

    Then the two numbers are their proportion.
    """
    end = time.monotonic() + 60 * minutes if minutes else None
    counts = {kind: n for kind, n in (("reader", reader), ("commands", commands)) if n}
    steps = {"reader": runs.reader, "commands": runs.command_lines}
    warm = {kind: Warm(kind) for kind in counts}
    going = {
        kind: iter(
            steps[kind](warm[kind], itertools.count(first) if end else range(first, first + n))
        )
        for kind, n in counts.items()
    }
    turns = itertools.cycle(_turns(reader, commands))
    while going and (end is None or time.monotonic() < end):
        kind = next(turns)
        example = next(going[kind], None) if kind in going else None
        if example is None:
            going.pop(kind, None)
        else:
            yield example
    for server in warm.values():
        server.close()


def _turns(reader: int, commands: int) -> list[str]:
    """Which kind comes next, in proportion."""
    if not reader or not commands:
        return ["reader"] if reader else ["commands"]
    often, seldom = ("reader", "commands") if reader >= commands else ("commands", "reader")
    return [often] * round(max(reader, commands) / min(reader, commands)) + [seldom]


class Summary:
    """Counts by format, failures by kind, and the worst time and memory."""

    def __init__(self, folder: Path, out: Console) -> None:
        self.folder, self.out = folder, out
        self.states: dict[str, Counter[str]] = defaultdict(Counter)
        self.failures: dict[tuple[str, str], list[Example]] = defaultdict(list)
        self.worst: dict[str, list[tuple[float, int]]] = defaultdict(lambda: [(0.0, 0), (0.0, 0)])

    def add(self, example: Example) -> None:
        """Count an example; print and keep it if it failed."""
        outcome = example.outcome
        if example.step == "reader":
            group, state = example.made.form.split(" ")[0], outcome.answer.get("state", "died")
        else:
            group = example.made.arguments[0]
            state = "read" if outcome.answer.get("code") == 0 else "refused"
        self.states[group]["failed" if example.problem else state] += 1
        worst = self.worst[example.step]
        worst[0] = max(worst[0], (outcome.seconds, example.seed))
        worst[1] = max(worst[1], (outcome.memory_mb, example.seed))
        if example.problem:
            self.out.print(str(example), markup=False, highlight=False, soft_wrap=True)
            alike = self.failures[example.step, example.problem.kind]
            alike.append(example)
            if len(alike) <= KEPT:
                self._keep(example)

    def _keep(self, example: Example) -> None:
        place = self.folder / f"{example.step}-{example.seed}"
        place.mkdir(parents=True, exist_ok=True)
        example.made.write(place)
        again = f"python examples/fuzz.py --seed {example.seed} "
        counts = ("1", "0") if example.step == "reader" else ("0", "1")
        again += "--reader {} --commands {}".format(*counts)
        answer = example.outcome.answer
        text = f"{example}\n{again}\n{answer.get('traceback', '')}\n{example.outcome.said}\n"
        (place / "about.txt").write_text(text, encoding="utf-8")

    def show(self) -> int:
        """Print the tables; return the exit code."""
        table = Table(title="by format and command")
        for heading in ("", "read", "refused", "failed"):
            table.add_column(heading, justify="left" if not heading else "right")
        for group, counts in sorted(self.states.items()):
            rest = (str(counts[state]) for state in ("read", "refused", "failed"))
            table.add_row(group, *rest)
        self.out.print(table)
        for step, ((seconds, slow), (memory, large)) in self.worst.items():
            self.out.print(
                f"{step}: at most {seconds:.2f} s (seed {slow}) and {memory:.0f} MB (seed {large})"
            )
        for (step, kind), alike in sorted(self.failures.items(), key=lambda item: -len(item[1])):
            seeds = ", ".join(str(example.seed) for example in alike[:6])
            text = f"{len(alike)} {step}: {kind}: seeds {seeds}"
            self.out.print(text, markup=False, highlight=False, soft_wrap=True)
        return 1 if self.failures else 0


def main() -> None:
    """Read the options, run, and exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="run for so long, with ever new seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--reader", type=int, default=10_000, help="files for the reader")
    parser.add_argument("--commands", type=int, default=300, help="files for whole commands")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    out = Console()
    summary, began, count = Summary(options.folder, out), time.monotonic(), 0
    for example in examples(options.seed, options.reader, options.commands, options.minutes):
        summary.add(example)
        count += 1
    took = time.monotonic() - began
    code = summary.show()
    out.print(f"{count} examples in {took:.0f} s, {count / took:.0f} a second")
    sys.exit(code)


if __name__ == "__main__":
    main()
