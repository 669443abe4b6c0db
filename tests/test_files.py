"""Fingerprints, gzip, and outputs that appear whole and together or not at all."""

import errno
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hsyn_cli.errors import InputError, OutputError
from hsyn_cli.io import atomic, files

CONTENT = os.urandom(5000) + bytes(20000)


def test_fingerprint_plain_and_gzip(tmp_path: Path) -> None:
    plain, zipped, members = tmp_path / "a.nii", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    plain.write_bytes(CONTENT)
    zipped.write_bytes(gzip.compress(CONTENT))
    members.write_bytes(gzip.compress(CONTENT[:3000]) + gzip.compress(CONTENT[3000:]))
    for path in (plain, zipped, members):
        mark = files.fingerprint(path)
        assert mark.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert mark.length == 25000


@pytest.mark.parametrize("keep", [5, 30, 2000, -4, -1])
def test_truncated_gzip_is_told(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(CONTENT)[:keep])
    with pytest.raises(InputError, match=r"a\.nii\.gz: the gzip stream is truncated"):
        files.fingerprint(path)


def test_damaged_gzip_is_told(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(CONTENT))
    for place in (1500, len(data) - 6):  # in the stream; in the checksum
        broken = data.copy()
        broken[place] ^= 0xFF
        path = tmp_path / "a.nii.gz"
        path.write_bytes(broken)
        with pytest.raises(InputError, match="the gzip stream is damaged"):
            files.fingerprint(path)


def test_missing_folder_and_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, text in (
        (tmp_path / "no", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "empty", "is empty"),
    ):
        with pytest.raises(InputError, match=text) as caught:
            files.fingerprint(path, "moving image")
        assert str(caught.value).startswith("moving image")
        assert caught.value.hint


def test_gzip_is_readable_by_others_and_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    one, two = tmp_path / "one.gz", tmp_path / "two.gz"
    large = np.random.default_rng(0).integers(0, 50, 2 * files.PIECE + 7, np.uint8)
    for path in (one, two):
        with files.writing(path) as write:
            write(CONTENT)
            write(large.data)
            write(b"")
            write(b"end")
    assert gzip.decompress(one.read_bytes()) == CONTENT + large.tobytes() + b"end"
    assert one.read_bytes() == two.read_bytes()
    single = zlib.decompressobj(31)  # one member, which any reader takes
    single.decompress(one.read_bytes())
    assert single.eof
    assert not single.unused_data


def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    atomic.write_text(target, "old ü")

    def interrupted() -> None:
        with atomic.replacing(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    def full() -> None:
        with atomic.replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(OutputError, match=r"a\.json: no space left"):
        full()
    assert target.read_text(encoding="utf-8") == "old ü"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_real_size_limit_is_an_output_error(tmp_path: Path) -> None:
    program = (
        "import pathlib, resource, signal, sys\n"
        "from hsyn_cli.io import atomic\n"
        "from hsyn_cli.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: atomic.write_bytes(pathlib.Path(sys.argv[1]), bytes(100000))\n"
        "except OutputError as error: print(error)\n"
    )
    target = tmp_path / "big"
    done = subprocess.run(
        [sys.executable, "-c", program, str(target)], capture_output=True, text=True, check=True
    )
    assert "no space left" in done.stdout
    assert os.listdir(tmp_path) == []


def test_claim_shows_all_outputs_only_at_commit(tmp_path: Path) -> None:
    a, b = tmp_path / "new" / "deep" / "a.txt", tmp_path / "other_b.txt"
    with atomic.claim([a, b]) as staging:
        for target in (a, b):
            staging.path(target).write_text(target.name)
            assert staging.path(target).suffix == target.suffix
            assert not target.exists()
        staging.commit()
    assert (a.read_text(), b.read_text()) == ("a.txt", "other_b.txt")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "deep", "new", "other_b.txt"]


def test_without_commit_nothing_is_left_not_even_folders(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "a.txt"

    def run() -> None:
        with atomic.claim([target]) as staging:
            staging.path(target).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert os.listdir(tmp_path) == []


def test_a_commit_that_fails_takes_everything_back(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("1", "2", "3"))
    second.write_text("old")

    def run() -> None:
        with atomic.claim([first, second, third], force=True) as staging:
            staging.path(first).write_text("new")
            staging.path(second).write_text("new")  # the third was never written
            staging.commit()

    with pytest.raises(OutputError):
        run()
    assert second.read_text() == "old"
    assert os.listdir(tmp_path) == ["2"]


def test_claim_refuses(tmp_path: Path) -> None:
    there = tmp_path / "a"
    there.touch()
    (tmp_path / "folder").mkdir()

    def refused(
        targets: list[Path], text: str, force: bool = False, inputs: Sequence[Path] = ()
    ) -> None:
        with (
            pytest.raises(OutputError, match=text) as caught,
            atomic.claim(targets, force=force, inputs=inputs),
        ):
            pytest.fail("was allowed")
        assert caught.value.hint

    refused([tmp_path / "new" / "b", there], "a exists already")
    refused(
        [there], "is an input of this run", force=True, inputs=[tmp_path / "folder" / ".." / "a"]
    )
    refused([tmp_path / "Warped", tmp_path / "warped"], "are one file on some disks")
    refused([tmp_path / "folder"], "is a folder", force=True)
    refused([there / "under" / "b"], "cannot be written")
    assert sorted(os.listdir(tmp_path)) == ["a", "folder"]


def test_claim_refuses_a_folder_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**options: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(
        tempfile, "mkdtemp", denied
    )  # root may write everywhere, so modes are no test for it
    with (
        pytest.raises(OutputError, match="written: Permission denied"),
        atomic.claim([tmp_path / "new" / "a"]),
    ):
        pytest.fail("was allowed")
    assert os.listdir(tmp_path) == []


def test_a_table_is_read_by_its_column_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeffname, value\na , 1\nb\n", encoding="utf-8")
    assert files.read_table(path) == [{"name": "a", "value": "1"}, {"name": "b", "value": ""}]
    for broken, text in ((tmp_path / "none.csv", "no such file"), (tmp_path, "is no CSV")):
        with pytest.raises(InputError, match=text):
            files.read_table(broken, "pairs")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no CSV"):
        files.read_table(path, "pairs")


@pytest.mark.parametrize("name", ["warp.nii.gz", "warp.nii", "warp.nrrd", "warp"])
def test_a_name_beside_a_file(name: str) -> None:
    assert files.beside(Path("a") / name, "_j.nii.gz") == Path("a/warp_j.nii.gz")
