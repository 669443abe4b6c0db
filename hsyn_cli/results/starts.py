"""Initial transforms of a registration: a chain, as ANTs takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hsyn_cli.errors import InputError, UsageError
from hsyn_cli.space import Array, affine_parts

if TYPE_CHECKING:
    from hsyn_cli.io.transforms import Transform
    from hsyn_cli.tools.chain import Source

TOLERANCE = 1e-3  # of the entries of a matrix that says what it is


@dataclass(frozen=True)
class Starts:
    """Linear transforms to start from; fixed points go through the first one first.

    Attributes:
        typed: FILE or [FILE,1], which inverts; none: the identity.
        kind: what they must be together: "translation", "rigid" or "affine".
    """

    typed: tuple[str, ...]
    kind: str = "affine"

    @property
    def paths(self) -> Mapping[str, Path]:
        """{role: path} of the files."""
        from hsyn_cli.tools import chain

        paths = [chain.parse(text, "-i")[0] for text in self.typed]
        return {f"initial_transform{f'_{k}' * (k > 1)}": path for k, path in enumerate(paths, 1)}

    def read(self, dimension: int) -> tuple[Transform, tuple[Source, ...]]:
        """One transform for all, for images of a `dimension`, and the files it comes from.

        Raises InputError, UsageError.
        """
        import SimpleITK as sitk

        from hsyn_cli.io.transforms import Transform
        from hsyn_cli.tools import chain

        if not self.typed:
            return Transform(sitk.AffineTransform(3), Path("identity"), "", dimension), ()
        links = chain.read(self.typed)
        for link in links.links:
            if not link.transform.IsLinear():
                text = f"initial transform {link.name} is not linear"
                raise InputError(text, "give rigid or affine transforms")
        affine = chain.to_affine(links)
        self._check_kind(affine_parts(affine)[0], links.links[0].name)
        first = links.sources[0]
        return Transform(affine, Path(first.path), first.sha256, links.dimension), links.sources

    def _check_kind(self, matrix: Array, name: str) -> None:
        """Raise UsageError if the transform does more than `kind` says."""
        product = {"translation": matrix, "rigid": matrix.T @ matrix}.get(self.kind)
        if product is not None and np.abs(product - np.eye(len(matrix))).max() > TOLERANCE:
            raise UsageError(
                f"initial transform {name} is no {self.kind} transform, and the result must be one",
                "give such a transform, or register with an affine one",
            )
