"""The U-Net of SN-Net's levels and of DI-Net, shaped as in VoxelMorph (Balakrishnan, TMI 2019).

The tissue net (ours) uses it as well, with a shortcut.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Sequential):
    """3-wide convolution and LeakyReLU 0.2."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(nn.Conv3d(cin, cout, 3, padding=1), nn.LeakyReLU(0.2, inplace=True))


def fold(x: Tensor, stride: int) -> Tensor:
    """(B, C, Z, Y, X) -> (B, C s^3, Z/s, Y/s, X/s): each s x s x s cell becomes channels.

    Nothing is lost. In memory, the channels of a cell lie side by side, as convolutions want them.
    """
    if stride == 1:
        return x
    b, c, z, y, w = x.shape
    s = stride
    x = x.reshape(b, c, z // s, s, y // s, s, w // s, s).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return x.reshape(b, z // s, y // s, w // s, c * s**3).movedim(-1, 1)


class UNet(nn.Module):
    """Image or field in, a vector (or `out` numbers) per voxel out, at 1/stride of the resolution.

    Any size that divides by `stride` works, because the net pads and crops inside. The flow layer
    starts at N(0, 1e-5), so the answer of an untrained net is almost zero. `precision` applies to
    all convolutions but the last. With a `shortcut`, the head gets the input, too. `decoder`:
    see `config.Level`.
    """

    precision = torch.float32

    def __init__(
        self,
        channels: int,
        stride: int,
        encoder: Sequence[int],
        head: Sequence[int],
        out: int = 3,
        shortcut: bool = False,
        decoder: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut = shortcut
        widths = [channels * stride**3, *encoder]
        self.encoder = nn.ModuleList(Conv(a, b) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList()
        width, skips = encoder[-1], encoder[-2::-1]
        for skip, wide in zip(skips, decoder or [max(k, head[0]) for k in skips], strict=True):
            self.decoder.append(Conv(width + skip, wide))
            width = wide
        width += widths[0] if shortcut else 0
        self.head = nn.Sequential(*(Conv(a, b) for a, b in pairwise((width, *head))))
        self.flow = nn.Conv3d(head[-1], out, 3, padding=1)
        nn.init.normal_(self.flow.weight, std=1e-5)
        assert self.flow.bias is not None
        nn.init.zeros_(self.flow.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, out, Z/s, Y/s, X/s); vectors in voxels of the output."""
        x = fold(x, self.stride)
        size = x.shape[2:]
        deep = 2 ** (len(self.encoder) - 1)
        pad = [p for n in reversed(size) for p in (0, -n % deep)]
        x = F.pad(x, pad) if any(pad) else x  # it copies all the same
        x = x.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            x = self._features(x)
        u: Tensor = self.flow(x.float())
        return u[..., : size[0], : size[1], : size[2]]

    def _features(self, x: Tensor) -> Tensor:
        skips, inputs = [], x
        for k, conv in enumerate(self.encoder):
            x = conv(x if k == 0 else F.max_pool3d(x, 2))
            skips.append(x)
        skips.pop()
        for conv in self.decoder:
            x = torch.cat((F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()), dim=1)
            x = conv(x)
        out: Tensor = self.head(torch.cat((x, inputs.to(x.dtype)), dim=1) if self.shortcut else x)
        return out


def unfold(x: Tensor, stride: int) -> Tensor:
    """Inverse of `fold`: (B, C s^3, Z, Y, X) -> (B, C, Z s, Y s, X s)."""
    b, c, z, y, w = x.shape
    s = stride
    x = x.reshape(b, c // s**3, s, s, s, z, y, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // s**3, z * s, y * s, w * s)


def use_precision(net: nn.Module, kind: torch.dtype) -> None:
    """Set the precision of every U-Net in `net` to `kind`."""
    for module in net.modules():
        if isinstance(module, UNet):
            module.precision = kind
