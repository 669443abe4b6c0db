"""SN-Net: two images in, two half-way displacement fields from the pair's mean space out.

The levels and their composition are the paper's (Sha et al., MICCAI 2024). The force steps, the
forces as an input, the tissue net and the feature net are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from hsyn_cli.config.architecture import SNNetConfig
from hsyn_cli.devices import return_memory
from hsyn_cli.fields.sampling import compose, downsample, resize_linear, warp
from hsyn_cli.fields.smoothing import resize_smooth
from hsyn_cli.method.feature_net import FeatureNet
from hsyn_cli.method.forces import forces
from hsyn_cli.method.steps import EVERYWHERE, pull
from hsyn_cli.method.tissue_net import MapsNet, TissueNet
from hsyn_cli.method.unet import UNet
from hsyn_cli.method.where import Where


class SNNet(nn.Module):
    """A U-Net per level, coarse to fine; each runs on both orders of the images.

    g(moving, fixed) gives u_mid_to_moving, and g(fixed, moving) gives u_mid_to_fixed, with the same
    weights. Exchanging the images exchanges the answers, so SN-Net is symmetric by construction.
    """

    def __init__(self, config: SNNetConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList(
            UNet(5 if v.forces else 2, v.stride, v.encoder, v.head, decoder=v.decoder)
            if v.repeats
            else nn.Identity()
            for v in config.levels
        )
        self.tissue = None if config.tissue is None else TissueNet(config.tissue)
        self.features = None if config.features is None else FeatureNet(config.features)
        self.contrasts_differ = False  # the features then stand beside the images
        self.channels: tuple[float, ...] = (1.0,)  # weights of a pair's channels in the steps

    def forward(
        self,
        moving: Tensor,
        fixed: Tensor,
        depth: int | None = None,
        maps: Tensor | None = None,
        where: Where = EVERYWHERE,
    ) -> tuple[Tensor, Tensor]:
        """Two images (B, 1, Z, Y, X) on one grid -> (u_mid_to_moving, u_mid_to_fixed), in mm.

        Intensities are in [0, 1]. The fields are (B, 3, Z/s, Y/s, X/s) at the stride s of the last
        level used (`depth` levels, or all). The force steps also use `maps` (2B, C, Z, Y, X), of
        which the first are further channels of the images, if there are `channels`, and heed
        `where` the images count. Both have moving first.
        """
        *_, u = self.after_levels(torch.cat((moving, fixed)), depth, maps, where)
        u_moving, u_fixed = u.chunk(2)
        return u_moving, u_fixed

    def after_levels(
        self,
        pair: Tensor,
        depth: int | None = None,
        maps: Tensor | None = None,
        where: Where = EVERYWHERE,
    ) -> Iterator[Tensor]:
        """Both half-way fields (2B, 3, ...) after each level; `pair` (2B, 1, ...), moving first."""
        maps = pair[:, :0] if maps is None else maps
        others = len(self.channels) - 1
        features = self.look(pair)[:, 1:] if self.contrasts_differ else pair[:, :0]
        pair = torch.cat((pair, maps[:, :others], features, maps[:, others:]), dim=1)
        scales = [level.scale for level in self.config.levels[:depth]]
        pyramid = [downsample(pair, scale) for scale in scales]
        of_levels = [where.changed(partial(downsample, factor=scale)) for scale in scales]
        yield from self.each_level(pyramid, of_levels)

    def look(self, images: Tensor) -> Tensor:
        """The images that the refinement follows, (B, 1, Z, Y, X) -> (B, 1 + C, Z, Y, X).

        The tissue net, or the feature net where contrasts differ, adds its C maps of each image.
        """
        return images if self._looks is None else self._looks.beside(images)

    @property
    def _looks(self) -> MapsNet | None:
        return self.features if self.contrasts_differ else self.tissue

    @property
    def maps(self) -> int:
        """The number of maps C that `look` adds."""
        return 0 if self._looks is None else self._looks.maps

    @property
    def looked(self) -> int:
        """The numbers per voxel that its net gives."""
        return 0 if self._looks is None else self._looks.out

    def follow(self, features: FeatureNet) -> None:
        """Align these features beside images that differ in contrast, in all force steps."""
        weight = features.config.weight
        levels = tuple(
            replace(level, steps=level.steps and replace(level.steps, tissue=weight))
            for level in self.config.levels
        )
        self.config = replace(self.config, levels=levels, features=features.config)
        self.features, self.contrasts_differ = features, True

    def fields(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Run all levels -> (2B, 3, ...), mm; see `each_level`."""
        *_, u = self.each_level(pyramid)
        return u

    def each_level(
        self, pyramid: Sequence[Tensor], where: Sequence[Where] | None = None
    ) -> Iterator[Tensor]:
        """Run the levels in turn -> (2B, 3, ...) after each, mm.

        pyramid[k]: (2B, 1 + C, ...) at level k's scale, moving images first.
        """
        u: Tensor | None = None
        for level, pair in enumerate(pyramid):
            if not torch.is_grad_enabled():
                return_memory()
            u = self.level(level, pair, u, EVERYWHERE if where is None else where[level])
            yield u

    def level(
        self, level: int, pair: Tensor, u: Tensor | None, where: Where = EVERYWHERE
    ) -> Tensor:
        """Run one level: its force steps, if any, then its net `repeats` times.

        Shapes are as in `step`.
        """
        spec = self.config.levels[level]
        if spec.steps is not None:
            u = self._pulled(level, pair, u, where)
        for _ in range(spec.repeats):
            u = self.step(level, pair[:, :1], u)
        assert u is not None
        return u

    def _pulled(self, level: int, pair: Tensor, u: Tensor | None, where: Where) -> Tensor:
        """Force steps at the level's resolution, which the net then corrects.

        No gradient flows through them.
        """
        spec = self.config.levels[level]
        assert spec.steps is not None
        if u is None:
            u = pair.new_zeros(len(pair), 3, *pair.shape[2:])
        else:
            u = resize_smooth(u.detach(), pair.shape[2:])
        voxel = self.config.spacing * spec.scale
        return pull(
            pair, u, voxel, spec.steps, config=self.config, where=where, channels=self.channels
        )

    def step(self, level: int, pair: Tensor, u: Tensor | None) -> Tensor:
        """Run one level's net: warp by the field so far, predict a residual in mean space, compose.

        Args:
            pair: (2B, 1, Z, Y, X) at the level's scale, moving images first.
            u: (2B, 3, ...) of the level before, or None.
        """
        spec = self.config.levels[level]
        voxel = self.config.spacing * spec.scale
        warped = pair if u is None else warp(pair, resize_linear(u, pair.shape[2:]), voxel)
        swapped = torch.cat(warped.chunk(2)[::-1])
        inputs = [warped, swapped]
        if spec.forces:
            moving, fixed = warped.detach().chunk(2)
            both = forces(moving, fixed, spec.window, self.config.similarity, self.config.inputs)
            inputs.append(self.config.inputs.force_scale * torch.cat(both))
            del moving, fixed, both
        stacked = torch.cat(inputs, dim=1)
        del warped, swapped, inputs  # the net takes most memory
        residual: Tensor = self.levels[level](stacked) * (voxel * spec.stride)
        if not self.config.symmetric:  # the mean space is then the fixed image's
            residual = torch.cat((residual.chunk(2)[0], torch.zeros_like(residual.chunk(2)[1])))
        if u is None:
            return residual
        return compose(residual, resize_linear(u, residual.shape[2:]), voxel * spec.stride)
