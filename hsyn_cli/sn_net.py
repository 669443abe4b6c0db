"""SN-Net: two images in, two half-way displacement fields to the mean space of the pair out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hsyn_cli.config import SNNetConfig
from hsyn_cli.fields import compose, downsample, resampled, resize, warp
from hsyn_cli.forces import forces, pull
from hsyn_cli.tissue import TissueNet
from hsyn_cli.unet import UNet

FORCE_SCALE = 4.0  # brings forces to about the size of intensities


class SNNet(nn.Module):
    """A U-Net per level, coarse to fine; each is asked twice with the images' order swapped.

    g(moving, fixed) gives u_mid_to_moving and g(fixed, moving) gives u_mid_to_fixed, with the same weights, so exchanging
    moving and fixed exchanges the answers: symmetry holds by construction.
    """

    def __init__(self, config: SNNetConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList(
            UNet(5 if v.forces else 2, v.stride, v.encoder, v.head) for v in config.levels
        )
        self.tissue = None if config.tissue is None else TissueNet(config.tissue)

    def forward(
        self,
        moving: Tensor,
        fixed: Tensor,
        depth: int | None = None,
        maps: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, 1, Z, Y, X) twice, same grid, intensities in [0, 1] -> (u_mid_to_moving, u_mid_to_fixed), in mm.

        The fields are (B, 3, Z/s, Y/s, X/s) at the stride s of the last level used (`depth` levels, or all). The steps along
        the forces look at `maps` (2B, C, Z, Y, X) as well, and take none where `counts` (2B, 1, Z, Y, X) are 0; moving first.
        """
        pair = torch.cat((moving, fixed))
        pair = pair if maps is None else torch.cat((pair, maps), dim=1)
        scales = [level.scale for level in self.config.levels[:depth]]
        where = None if counts is None else [downsample(counts, scale) for scale in scales]
        u_moving, u_fixed = self.fields([downsample(pair, scale) for scale in scales], where).chunk(2)
        return u_moving, u_fixed

    def look(self, images: Tensor) -> Tensor:
        """(B, 1, Z, Y, X) -> (B, 1 + C, Z, Y, X): images, and what the tissue net makes of each, if there is one, to refine by."""
        return images if self.tissue is None else self.tissue.beside(images)

    def fields(self, pyramid: Sequence[Tensor], counts: Sequence[Tensor] | None = None) -> Tensor:
        """The levels in turn. pyramid[k]: (2B, 1 + C, ...) at level k's scale, moving images first -> (2B, 3, ...), mm."""
        u: Tensor | None = None
        for level, pair in enumerate(pyramid):
            u = self.level(level, pair, u, None if counts is None else counts[level])
        assert u is not None
        return u

    def level(self, level: int, pair: Tensor, u: Tensor | None, counts: Tensor | None = None) -> Tensor:
        """All of one level: steps along the forces where it has them, then its net, as often as it is asked. As `step`."""
        spec = self.config.levels[level]
        if spec.steps is not None:
            u = self._pulled(level, pair, u, counts)
        for _ in range(spec.repeats):
            u = self.step(level, pair[:, :1], u)
        assert u is not None
        return u

    def _pulled(self, level: int, pair: Tensor, u: Tensor | None, counts: Tensor | None) -> Tensor:
        """Steps along the forces, at the level's resolution, which the net then corrects. No gradient goes through them."""
        spec = self.config.levels[level]
        assert spec.steps is not None
        u = (
            pair.new_zeros(len(pair), 3, *pair.shape[2:])
            if u is None
            else resampled(u.detach(), pair.shape[2:])
        )
        voxel = self.config.spacing * spec.scale
        return pull(pair, u, voxel, spec.steps, symmetric=self.config.symmetric, counts=counts)

    def step(self, level: int, pair: Tensor, u: Tensor | None) -> Tensor:
        """The net of one level: warp by the field so far, predict a residual in mid space, compose.

        pair: (2B, 1, Z, Y, X) at the level's scale, moving images first. u: (2B, 3, ...) of the level before, or None.
        """
        spec = self.config.levels[level]
        voxel = self.config.spacing * spec.scale
        warped = pair if u is None else warp(pair, resize(u, pair.shape[2:]), voxel)
        swapped = torch.cat(warped.chunk(2)[::-1])
        seen = [warped, swapped]
        if spec.forces:
            moving, fixed = warped.detach().chunk(2)
            seen.append(FORCE_SCALE * torch.cat(forces(moving, fixed, spec.window)))
        residual: Tensor = self.levels[level](torch.cat(seen, dim=1)) * (voxel * spec.stride)
        if not self.config.symmetric:  # the mean space is then the fixed image's
            residual = torch.cat((residual.chunk(2)[0], torch.zeros_like(residual.chunk(2)[1])))
        if u is None:
            return residual
        return compose(residual, resize(u, residual.shape[2:]), voxel * spec.stride)
