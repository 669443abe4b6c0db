"""Ids of pairs: unique, and file names on every system."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hsyn_cli.io import files

LONGEST = 100  # characters
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # by Windows
WHAT_IS_SAFE = (
    f"letters, digits, . _ - (no dot or dash first or last), at most {LONGEST} characters"
)

Files = tuple[Path, ...]  # moving and fixed image, or one scan


def safe(text: str) -> str:
    """`text` as a file name of at most `LONGEST` characters that every system takes."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip(".-") or "pair"
    if RESERVED.match(plain):
        plain = f"_{plain}"
    if len(plain) > LONGEST:
        end = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
        plain = f"{plain[: LONGEST - 9]}_{end}"
    return plain


def is_safe(text: str) -> bool:
    """True if `text` can be an id."""
    return safe(text) == text


def usual_ids(pairs: Sequence[Files], taken: Sequence[str] = ()) -> list[str]:
    """The id of each pair: <moving>_to_<fixed> by the stems of the files. That of one scan: <scan>.

    Pairs with equal names get as many of the folders above as tell them apart, and a number if none
    does. An id does not depend on the pairs whose names differ, so lists may grow. `taken`: other
    ids. Case does not count.
    """
    ids = [safe(_label(pair, (0,) * len(pair))) for pair in pairs]
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(ids):
        groups.setdefault(name.casefold(), []).append(k)
    for group in groups.values():
        if len(group) > 1:
            for k, name in zip(group, _told_apart([pairs[k] for k in group]), strict=True):
                ids[k] = name
    return _numbered(ids, taken)


def _told_apart(pairs: Sequence[Files]) -> list[str]:
    """Ids with folders of those images that differ, as many as it takes."""
    whole = [tuple(path.absolute() for path in pair) for pair in pairs]
    differ = [len(set(side)) > 1 for side in zip(*whole, strict=True)]
    most = max(len(path.parts) for pair in whole for path in pair)
    ids: list[str] = []
    for depth in range(1, most):
        depths = [depth if side else 0 for side in differ]
        ids = [safe(_label(pair, depths)) for pair in whole]
        if len({name.casefold() for name in ids}) == len(set(whole)):
            break
    return ids


def _label(pair: Files, depths: Sequence[int]) -> str:
    """The names, each after so many of the folders above it."""
    sides = []
    for path, depth in zip(pair, depths, strict=True):
        folders = path.parts[1:-1][-depth:] if depth else ()
        sides.append("_".join((*folders, files.beside(path, "").name)))
    return "_to_".join(sides)


def _numbered(ids: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Ids with _2, _3 and so on after those that were there before."""
    used = Counter(name.casefold() for name in taken)
    out = []
    for name in ids:
        unique, count = name, 1
        while used[unique.casefold()]:
            count += 1
            unique = f"{name[: LONGEST - 1 - len(str(count))]}_{count}"
        used[unique.casefold()] += 1
        out.append(unique)
    return out
