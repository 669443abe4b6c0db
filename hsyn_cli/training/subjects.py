"""The subjects of a training, in a folder or a CSV: an image, a label map, or both on one grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hsyn_cli.errors import InputError
from hsyn_cli.io import files
from hsyn_cli.io.endings import HEADERS, IMAGES, ends
from hsyn_cli.training.cache import SPLITS


@dataclass(frozen=True)
class Subject:
    """One person or specimen: an image, a label map, or both."""

    image: Path | None
    labels: Path | None
    split: str = ""  # one of SPLITS, if the data say so

    @property
    def name(self) -> str:
        return str(self.image or self.labels)


def collect(data: Path) -> list[Subject]:
    """List the subjects of a folder or a CSV.

    A CSV has the columns image and labels; either cell may be empty, and paths are relative to the
    CSV. A column split says what each subject is for: train, validation or test. A folder holds
    images. Its subfolder labels/ may hold label maps, which belong to the image of the same name or
    stand alone. Raises InputError for fewer than two subjects, for a split that is none, and for a
    file in two splits.
    """
    if data.is_dir():
        labels = {path.name: path for path in _volumes(data / "labels")}
        pairs = [(path, labels.pop(path.name, None)) for path in _volumes(data)]
        subjects = [Subject(*pair) for pair in pairs] + [
            Subject(None, path) for path in labels.values()
        ]
    else:
        subjects = list(_table(data))
    if len(subjects) < 2:
        content = "one image" if subjects else "no image"
        raise InputError(
            f"{data} holds {content}; training needs at least two",
            f"give a folder with files ending in {', '.join(IMAGES)}",
        )
    return subjects


def _volumes(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(path for path in paths if ends(path, IMAGES) and not ends(path, HEADERS))


def _table(path: Path) -> Iterator[Subject]:
    rows = files.read_table(path, "training data")
    if rows and not {"image", "labels"} & set(rows[0]):
        raise InputError(
            f"{path} has neither a column image nor labels", "name the columns in the first line"
        )
    parts: dict[Path, str] = {}
    for row in rows:
        image, labels = (
            path.parent / name if (name := row.get(key, "")) else None
            for key in ("image", "labels")
        )
        split = row.get("split", "")
        files_here = [file for file in (image, labels) if file is not None]
        if files_here and "split" in row and split not in SPLITS:
            raise InputError(
                f"{path}: {files_here[0].name} has the split {split!r}",
                f"give one of {', '.join(SPLITS)}",
            )
        for file in files_here:
            if parts.setdefault(file.resolve(), split) != split:
                text = f"{path}: {file.name} is in the split {split} and in another one"
                raise InputError(text, "leave it in one")
        if files_here:
            yield Subject(image, labels, split)
