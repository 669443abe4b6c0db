"""NiftyReg's fields, mm RAS: positions or displacements, as the intent's parameter says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsyn_cli.io.formats import Form

if TYPE_CHECKING:
    from hsyn_cli.space import Array, Grid


class NiftyReg(Form):
    """Intent 1007 named NREG_TRANS; parameter 0: positions, 1: displacements, which hsyn writes."""

    about = "mm, RAS: NIfTI intent 1007 named NREG_TRANS, positions or displacements (NiftyReg)"
    intent_name = "NREG_TRANS"  # fields_said.NIFTYREG
    intent_parameter = 1.0

    def coordinates(self, grid: Grid) -> Array:
        from hsyn_cli import space

        return space.coordinates(grid, "ras")

    def load_field(self, path: Path, named: bool) -> tuple[Array, Grid]:
        """Positions, parameter 0, become displacements."""
        from hsyn_cli.io import headers
        from hsyn_cli.io.formats import _fields

        vectors, grid = super().load_field(path, named)
        if headers.read(path).intent.parameter == 0:
            vectors = _fields.relative(vectors, grid, self.coordinates(grid))
        return vectors, grid


FORM = NiftyReg()
