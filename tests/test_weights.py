"""Checkpoints: found by name and path, never read with a wrong hash, never pickled."""

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hsyn_cli.errors import OutputError, WeightsError
from hsyn_cli.io import checkpoints as weights

CONFIG = {"levels": [{"scale": 4, "encoder": [8, 16]}], "spacing": 1.0}
TRAINING = {"steps": 12, "data": "two synthetic brains"}


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "b.weight": torch.randn(3, 2, 5),
        "a.bias": torch.randn(7).bfloat16(),
        "count": torch.tensor(3),
    }


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the published checkpoint `tiny`, the only folder that is looked into."""
    folder = tmp_path / "weights"
    folder.mkdir()
    weights.save(folder / "tiny.safetensors", tensors(), CONFIG, TRAINING)
    weights.publish(
        folder / "tiny.safetensors", training_data="two brains", licence="CC0", scores={"dice": 0.5}
    )
    monkeypatch.setattr(weights, "folders", lambda: [folder])
    return folder


def test_a_checkpoint_comes_back(store: Path) -> None:
    for given in ("tiny", store / "tiny.safetensors", str(store / "tiny.safetensors")):
        checkpoint = weights.load(given)
        assert (checkpoint.name, checkpoint.path) == ("tiny", store / "tiny.safetensors")
        assert (checkpoint.config, checkpoint.training, checkpoint.verified) == (
            CONFIG,
            TRAINING,
            True,
        )
        assert checkpoint.sha256 == hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()
        assert checkpoint.tensors.keys() == tensors().keys()
        assert all(
            torch.equal(checkpoint.tensors[name], value) for name, value in tensors().items()
        )


def test_same_content_same_hash(tmp_path: Path) -> None:
    backwards = dict(reversed(tensors().items()))
    one = weights.save(tmp_path / "a.safetensors", tensors(), CONFIG, TRAINING)
    assert one == weights.save(
        tmp_path / "b.safetensors", backwards, dict(reversed(CONFIG.items())), TRAINING
    )


def test_tensors_that_share_memory_or_have_gaps_are_saved(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    weights.save(
        tmp_path / "a.safetensors", {"whole": whole, "part": whole[1], "turned": whole.T}, CONFIG
    )
    read = weights.load(tmp_path / "a.safetensors")
    assert torch.equal(read.tensors["turned"], whole.T)
    assert not read.verified


def test_a_path_without_manifest_is_not_verified(store: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "mine.safetensors"
    lonely.write_bytes((store / "tiny.safetensors").read_bytes())
    assert not weights.load(lonely).verified


def test_available_tells_what_the_manifest_and_the_file_say(store: Path) -> None:
    (info,) = weights.available()
    assert (info.name, info.training_data, info.licence, info.scores) == (
        "tiny",
        "two brains",
        "CC0",
        {"dice": 0.5},
    )
    assert info.parameters == 30 + 7 + 1
    assert info.sha256 == weights.load("tiny").sha256
    info.path.unlink()
    assert weights.available()[0].parameters == 0


def test_listing_imports_no_torch() -> None:
    program = (
        "import sys\nfrom hsyn_cli.io import checkpoints\ncheckpoints.available()\n"
        "sys.exit(int(bool({'torch', 'numpy', 'SimpleITK'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_package_folders_come_first() -> None:
    first = next(weights.folders())
    assert first.name in ("weights", "_weights")
    assert (first / "manifest.json").is_file()


def test_a_user_folder_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_data_path", lambda *args, **options: tmp_path)
    (tmp_path / "weights").mkdir()
    weights.save(tmp_path / "weights" / "own.safetensors", tensors(), CONFIG)
    with pytest.raises(WeightsError, match="unknown checkpoint 'own'"):
        weights.find("own")  # not listed in a manifest, so not verified
    weights.publish(
        tmp_path / "weights" / "own.safetensors", training_data="", licence="", scores={}
    )
    assert weights.find("own") == tmp_path / "weights" / "own.safetensors"


def refused(given: str | Path, text: str) -> None:
    with pytest.raises(WeightsError, match=text) as caught:
        weights.load(given)
    assert caught.value.hint


def test_unknown_names_and_missing_files(store: Path) -> None:
    refused("tinny", "unknown checkpoint 'tinny'; known: tiny")
    refused("tinny.safetensors", r"tinny\.safetensors: no such file")
    refused(store / "other.safetensors", "no such file")
    (store / "tiny.safetensors").unlink()
    refused("tiny", "no such file")


def test_a_changed_file_is_refused_by_name_and_by_path(store: Path) -> None:
    data = bytearray((store / "tiny.safetensors").read_bytes())
    data[-1] ^= 1
    (store / "tiny.safetensors").write_bytes(data)
    refused("tiny", "wrong SHA-256")
    refused(store / "tiny.safetensors", "wrong SHA-256")


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_truncated_checkpoints(store: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes((store / "tiny.safetensors").read_bytes()[:keep])
    refused(path, "damaged")


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    path.write_bytes(b"\xff" * 8 + b"{}")
    refused(path, "not a safetensors file, or damaged")


def test_other_peoples_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors(), tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "was not made by hsyn")


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(witness), "w")

    for name in ("net.pt", "net.safetensors"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Trap()))
        refused(path, "not a .*safetensors")
    assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"a": {}}', '{"a": 3}', '{"a": {"file": "../x", "sha256": "%s"}}' % ("0" * 64)],
)
def test_a_damaged_manifest(store: Path, content: str) -> None:
    (store / "manifest.json").write_text(content)
    refused("tiny", r"manifest .* is damaged")


def test_check_tensors(store: Path) -> None:
    checkpoint = weights.load("tiny")
    right = {name: tuple(tensor.shape) for name, tensor in tensors().items()}
    weights.check_tensors(right, checkpoint)
    more = right | {f"new{k}": (1,) for k in range(5)}
    for expected, text in (
        (more, "misses tensors: new0, new1, new2 and 2 more"),
        ({k: v for k, v in right.items() if k != "count"}, "has unknown tensors: count$"),
        (right | {"a.bias": (8,)}, r"has other shapes in tensors: a\.bias$"),
    ):
        with pytest.raises(WeightsError, match=text):
            weights.check_tensors(expected, checkpoint)


def test_the_shipped_manifest_is_true() -> None:
    folder = Path(__file__).parents[1] / "weights"
    for name, entry in json.loads((folder / "manifest.json").read_text()).items():
        data = (folder / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert (folder / f"{name}.md").is_file(), "every checkpoint has its model card"
        assert entry["training_data"]
        assert entry["licence"]


def test_saving_where_it_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        weights.save(tmp_path / "none" / "a.safetensors", tensors(), CONFIG)
