"""What the README and the CHANGELOG say is so: commands, options, files, the CI's test command."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import click
import pytest

from hsyn_cli import __version__, cli, config, errors, organs, outputs, weights

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARDS = (README, (ROOT / "examples" / "brain" / "README.md").read_text(encoding="utf-8"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def shell_lines() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


def commands(start: str) -> list[list[str]]:
    """The arguments of every command in a shell block that begins with `start`, wherever its program lies."""
    parts = [part.strip() for line in shell_lines() for part in line.split("&&")]
    plain = [re.sub(r"^\S*/bin/", "", part) for part in parts]
    return [shlex.split(part.removeprefix(start)) for part in plain if part.startswith(f"{start} ")]


def parse(group: click.Command, arguments: list[str]) -> None:
    """Parse as click would, without running anything; raises click.UsageError."""
    command: click.Command = group
    while isinstance(command, click.Group):
        name, command_or_none, arguments = command.resolve_command(click.Context(command), arguments)
        assert command_or_none is not None, name
        command = command_or_none
    command.make_context(command.name, list(arguments))


@pytest.mark.parametrize("arguments", commands("hsyn"), ids=" ".join)
def test_every_hsyn_command_parses(arguments: list[str]) -> None:
    parse(cli.cli, arguments)


def test_there_are_commands_to_check() -> None:
    assert len(commands("hsyn")) >= 8


def test_every_option_named_exists() -> None:
    commands = [command for command in cli.cli.commands.values() if not isinstance(command, click.Group)]
    known = {name for command in commands for p in command.params for name in p.opts if name[0] == "-"} | {
        "--help"
    }
    foreign = {"--index-url", "--methods", "--nproc-per-node"}  # pip's, the benchmark's and torchrun's
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert named - known == foreign
    short = {"--help", "--out", "--input", "--transform"}  # named by their letters
    unnamed = {name for name in known - named - short if name.startswith("--")}
    assert unnamed <= {"--save-midspace", "--ignore", "--json-file"}


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_compile_and_use_what_exists(block: str) -> None:
    compile(block, "README.md", "exec")
    for module, names in re.findall(r"^from (hsyn_cli\S*) import (.+)$", block, flags=re.MULTILINE):
        imported = __import__(module, fromlist=["_"])
        for name in names.split(", "):
            assert hasattr(imported, name)


def test_facts_named_in_the_python_block_exist() -> None:
    from hsyn_cli.pipeline import Registration
    from hsyn_cli.report import ErrorStats, Facts

    text = "\n".join(blocks("python"))
    for name in re.findall(r"\bresult\.(\w+)", text):
        assert name in Registration.__dataclass_fields__
    for name, inner in re.findall(r"\bresult\.facts\.(\w+)(?:\.(\w+))?", text):
        assert name in Facts.__dataclass_fields__
        assert not inner or inner in ErrorStats.__dataclass_fields__


def test_links_lead_to_files() -> None:
    for folder, text in zip((ROOT, ROOT / "examples" / "brain"), CARDS, strict=True):
        for link in re.findall(r"\]\(([^)#\s]+)\)", text):
            if not link.startswith("https://"):
                assert (folder / link).exists(), link


def test_nothing_waits_to_be_filled_in() -> None:
    assert not re.findall(r"^[A-Z]{8,}$", README, flags=re.MULTILINE)


def test_the_picture_is_small() -> None:
    assert (ROOT / "examples" / "brain.png").stat().st_size < 400_000


def test_ci_runs_the_tests_as_the_readme_does() -> None:
    (command,) = [line for line in shell_lines() if "pytest" in line]
    script = ROOT / ".ci" / "run"
    assert command in [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    assert os.access(script, os.X_OK)


def test_exit_codes_are_those_of_the_errors() -> None:
    table = re.search(r"\| exit code \|.*?\n\n", README, flags=re.DOTALL)
    assert table is not None
    cells = re.findall(r"^\| ([\d, ]+) \|", table.group(), flags=re.MULTILINE)
    told = {int(code) for cell in cells for code in cell.split(",")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert told == {0} | {kind.exit_code for kind in kinds if issubclass(kind, errors.HsynError)}


def test_presets_and_files_are_those_of_the_program() -> None:
    told = {head: set(re.findall(r"^\| `([\w-]+)` \|", rows, flags=re.MULTILINE))
            for head, rows in re.findall(r"^\| (\w+) \| does \|\n((?:\|.*\n)+)", README, flags=re.MULTILINE)}  # fmt: skip
    assert told["preset"] == set(config.PRESETS)
    assert told["command"] | {"register", "train", "weights"} == set(cli.cli.commands)
    for name in (*outputs.FOLDER_FILES.values(), "report.html", "report.json", "warped_labels.nii.gz"):
        assert f"| `{name}` |" in README
    for suffix in outputs.ANTS_SUFFIXES.values():
        assert f"`P{suffix}`" in README
    assert all(name.startswith("mid_") for name in outputs.MIDSPACE_FILES.values())


def test_the_default_checkpoint_is_the_one_named() -> None:
    for organ in organs.ORGANS.values():
        assert f"`{organ.checkpoint}`" in README
    assert organs.ORGANS["brain"].checkpoint == weights.DEFAULT


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in text
