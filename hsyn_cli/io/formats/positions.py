"""Positions in mm, LPS: for each voxel of the fixed image, where it lies in the moving one."""

from __future__ import annotations

from hsyn_cli.io.formats import Form


class Positions(Form):
    """What some programs of ITK's world write in place of displacements; no file says so."""

    about = "absolute positions, mm, LPS; no program says so in its files"
    absolute = True


FORM = Positions()
