"""README, guides, model cards and CHANGELOG are true: commands, options, files, links."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path

import click
import pytest

import hsyn_cli
from hsyn_cli import __version__, cli, errors
from hsyn_cli.anatomy import organs
from hsyn_cli.cli import run
from hsyn_cli.config import Training, presets
from hsyn_cli.io import checkpoints, formats
from hsyn_cli.results import run_folder

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "hsyn_cli" / "guide").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES]
CARDS = [*sorted((ROOT / "weights").glob("*.md")), *sorted((ROOT / "examples").glob("*/README.md"))]
README, *_ = TEXTS = [page.read_text(encoding="utf-8") for page in PAGES]
GUIDE = {page.stem: text for page, text in zip(GUIDES, TEXTS[1:], strict=True)}
ALL = "\n".join(TEXTS)
FENCED = r"^```{}\n(.*?)^```$"
OF_EXAMPLES = (
    "classes split models "
    "peer methods picture steps motions presets profile people kills painted pairwise "
    "voxel growth noise draw block brain alone swap mm most until repeats same looks kinds parts"
)
OF_CLUSTERS = "job-name array cpus-per-task mem time scheduler-file nthreads no-nanny resources"
OF_PEERS = "mov dst targ lta"
# pip's, torchrun's, those of SLURM and Dask, those of examples/ and of FreeSurfer
FOREIGN = {"--index-url", "--nproc-per-node"} | {
    f"--{name}" for name in f"{OF_CLUSTERS} {OF_EXAMPLES} {OF_PEERS}".split()
}


def blocks(language: str, text: str = ALL) -> list[str]:
    """The code blocks of a language."""
    found: list[str] = re.findall(FENCED.format(language), text, flags=re.MULTILINE | re.DOTALL)
    return found


def shell_lines(text: str = ALL) -> list[str]:
    """The lines of shell blocks; what a backslash continues is one line."""
    return [
        line for block in blocks("sh", text) for line in block.replace("\\\n", " ").splitlines()
    ]


def commands() -> list[list[str]]:
    """The arguments of every command of hsyn in a shell block, wherever its program lies."""
    parts = [part.strip() for line in shell_lines() for part in line.split("&&")]
    plain = [re.sub(r"^(\S*/bin/|torchrun .* -m )(?=hsyn)", "", part) for part in parts]
    words = [shlex.split(part) for part in plain if part.startswith(("hsyn ", "hsyn_cli "))]
    return [arguments for _, *arguments in words]


def options() -> set[str]:
    """Every option of every command, long and short."""
    found, groups = {"--help", "--version"}, [cli.cli]
    for group in groups:
        for command in group.commands.values():
            if isinstance(command, click.Group):
                groups.append(command)
            found |= {name for p in command.params for name in p.opts if name[0] == "-"}
    return found


def table(head: str, text: str) -> list[str]:
    """The first cells of the rows of the table whose first line begins with `head`."""
    pattern = rf"^\| {re.escape(head)} \|.*\n\|[-|]+\|\n((?:\|.*\n?)+)"
    (rows,) = re.findall(pattern, text, flags=re.MULTILINE)
    return [row.strip("| ").split(" | ")[0] for row in rows.splitlines()]


def coded(cells: list[str]) -> list[str]:
    """All that stands in back quotes."""
    return re.findall(r"`([^`]+)`", " ".join(cells))


def parse(group: click.Command, arguments: list[str]) -> None:
    """Parse as click would, without running anything; raises click.UsageError."""
    command: click.Command = group
    while isinstance(command, click.Group):
        name, command_or_none, arguments = command.resolve_command(
            click.Context(command), arguments
        )
        assert command_or_none is not None, name
        command = command_or_none
    command.make_context(command.name, list(arguments))


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_hsyn_command_parses(arguments: list[str]) -> None:
    parse(cli.cli, arguments)


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 40
    assert {arguments[0] for arguments in commands()} == set(cli.cli.commands)


def test_every_option_named_exists() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ALL))
    assert named - options() == FOREIGN
    short = {
        "--help",
        "--version",
        "--input",
        "--transform",
    }  # named by their letters, or not at all
    assert {name for name in options() - named - short if name.startswith("--")} == set()


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_compile_and_use_what_exists(block: str) -> None:
    compile(block, "README.md", "exec")
    for module, names in re.findall(r"^from (hsyn_cli\S*) import (.+)$", block, flags=re.MULTILINE):
        imported = __import__(module, fromlist=["_"])
        for name in names.split(", "):
            assert hasattr(imported, name)


def test_facts_named_in_the_python_blocks_exist() -> None:
    from hsyn_cli.fields.grids import ErrorStats
    from hsyn_cli.method.result import Facts, Registration

    text = "\n".join(blocks("python"))
    for name in re.findall(r"\bresult\.(\w+)", text):
        assert name in Registration.__dataclass_fields__
    for name, inner in re.findall(r"\bresult\.facts\.(\w+)(?:\.(\w+))?", text):
        assert name in Facts.__dataclass_fields__
        assert not inner or inner in ErrorStats.__dataclass_fields__


def test_the_tables_of_the_python_guide_are_true() -> None:
    from hsyn_cli.method.result import Registration

    verbs = [name.split("(")[0] for name in coded(table("function", GUIDE["python"]))]
    assert {*verbs, "__version__"} == set(hsyn_cli.__all__)
    for name in coded(table("attribute", GUIDE["python"])):
        assert name in Registration.__dataclass_fields__ or hasattr(Registration, name)


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link


def test_nothing_waits_to_be_filled_in() -> None:
    assert not re.findall(r"^[A-Z]{8,}$", ALL, flags=re.MULTILINE)


def test_the_picture_is_small() -> None:
    assert (ROOT / "examples" / "brain.png").stat().st_size < 400_000


def test_the_readme_is_short_and_lists_every_guide() -> None:
    prose = re.sub(FENCED.format(r"\w*"), "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 900
    for page in GUIDES:
        assert f"]({page.relative_to(ROOT).as_posix()})" in README


def test_ci_runs_the_tests_as_the_readme_does() -> None:
    (command,) = [line for line in shell_lines(README) if "pytest" in line]
    script = ROOT / ".ci" / "run"
    assert command in [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    assert os.access(script, os.X_OK)


def test_exit_codes_are_those_of_the_errors() -> None:
    cells = table("exit code", GUIDE["exit-codes"])
    told = {int(code) for cell in cells for code in cell.split(",")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert told == {0} | {kind.exit_code for kind in kinds if issubclass(kind, errors.HsynError)}


def test_presets_commands_and_files_are_those_of_the_program() -> None:
    assert coded(table("preset", GUIDE["options"])) == presets.names()
    assert coded(table("preset", GUIDE["chest-ct"].split("## Presets")[1])) == presets.names()
    assert set(coded(table("command", GUIDE["options"]))) == set(cli.cli.commands)
    assert set(coded(table("form", GUIDE["fields"]))) == set(formats.names())
    written = coded(table("file in `out/`", GUIDE["fields"]))
    for name in (
        *run_folder.FOLDER_FILES.values(),
        "report.html",
        "report.json",
        "warped_labels.nii.gz",
    ):
        assert name in written
    ants = coded(table("file", GUIDE["fields"]))
    assert set(ants) == {f"P{suffix}" for suffix in run_folder.ANTS_SUFFIXES.values()}
    both = coded(table("composite", GUIDE["fields"]))
    assert set(both) == {f"P{suffix}" for suffix in run_folder.COMPOSITE_SUFFIXES.values()}
    assert all(name.startswith("mid_") for name in run_folder.MIDSPACE_FILES.values())


def test_settings_of_training_exist() -> None:
    told = coded(table("setting", GUIDE["training"]))
    assert told
    assert set(told) <= {field.name for field in dataclasses.fields(Training)}


def test_the_default_checkpoint_is_the_one_named() -> None:
    for name in organs.shipped().values():
        assert f"`{name}`" in README
        assert (ROOT / "weights" / f"{name}.md") in CARDS
    assert organs.find("brain").checkpoint == checkpoints.DEFAULT


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in text


def test_guide_lists_every_topic_and_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["guide"]) == 0
    listed = capsys.readouterr().out
    assert max(map(len, listed.splitlines())) <= 80
    entries = re.findall(r"^([\w-]+)  +(.*(?:\n  +.*)*)", listed, flags=re.MULTILINE)
    assert [topic for topic, _ in entries] == sorted(GUIDE)
    for topic, about in entries:
        plain = " ".join(GUIDE[topic].replace("`", "").split())
        assert f"This guide {' '.join(about.split())}." in plain


@pytest.mark.parametrize("topic", GUIDE)
def test_guides_fit_a_terminal_of_80_columns(
    topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["guide", topic]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert GUIDE[topic].splitlines()[0].removeprefix("# ") in "\n".join(lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("topic", GUIDE)
def test_commands_of_guides_can_be_copied_from_a_terminal(
    topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["guide", topic]) == 0
    printed = capsys.readouterr().out.replace(" \\\n", " ")
    told = [" ".join(line.split()) for line in printed.splitlines()]
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE[topic], flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace(" \\\n", " ").splitlines()
    commands = [" ".join(line.split()) for line in lines if max(map(len, line.split())) < 72]
    assert [command for command in commands if command not in told] == []


def test_an_unknown_guide(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["guide", "fieldz"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error, hint = captured.err.splitlines()
    assert error == "error: there is no guide 'fieldz'"
    assert hint.startswith("hint: ")
