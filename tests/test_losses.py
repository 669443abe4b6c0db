"""The terms of the loss against naive loops and closed forms."""

import numpy as np
import pytest
import torch
from samples import constant, linear, picture, smooth_field

from hsyn_cli.method import losses
from hsyn_cli.method.similarity.ncc import SIMILARITY

SIZE = (7, 9, 8)

ncc = SIMILARITY.value


def naive_ncc(
    a: np.ndarray, b: np.ndarray, window: int, epsilon: float, centres: list[np.ndarray]
) -> np.ndarray:
    """Squared NCC of two (Z, Y, X) pictures around the `centres`.

    Windows are cut off at the border.
    """
    half = window // 2
    out = np.zeros([len(c) for c in centres])
    for at in np.ndindex(out.shape):
        middle = [int(c[i]) for c, i in zip(centres, at, strict=True)]
        cut = tuple(slice(max(0, m - half), m + half + 1) for m in middle)
        x, y = a[cut].ravel(), b[cut].ravel()
        cov = ((x - x.mean()) * (y - y.mean())).mean()
        out[at] = cov**2 / (x.var() + epsilon) / (y.var() + epsilon)
    return out


@pytest.mark.parametrize("window", [3, 5, 7])
def test_ncc_is_a_naive_loop_inside(window: int) -> None:
    """A frame of zeros, as skull-stripped images have."""
    size = (11, 12, 13)
    a, b = torch.zeros(2, 1, 1, *size)
    for k, image in enumerate((a, b)):
        inner = torch.rand(tuple(n - 6 for n in size), generator=torch.Generator().manual_seed(k))
        image[0, 0, 3:-3, 3:-3, 3:-3] = inner
    expected = naive_ncc(
        a[0, 0].double().numpy(),
        b[0, 0].double().numpy(),
        window,
        1e-4,
        [np.arange(n) for n in size],
    )
    assert ncc(a, b, window).item() == pytest.approx(expected.mean(), abs=1e-5)
    weight = torch.rand(a.shape, generator=torch.Generator().manual_seed(2))
    got = ncc(a, b, window, weight).item()
    w = weight[0, 0].numpy()
    assert got == pytest.approx((expected * w).sum() / w.sum(), abs=1e-5)


def test_ncc_is_one_for_linear_contrast_and_zero_for_strangers_and_flat_ground() -> None:
    a, b = torch.rand(2, 1, 1, 16, 15, 14, generator=torch.Generator().manual_seed(3))
    assert ncc(a, a, 5).item() > 0.98
    assert ncc(a, 1 - 0.5 * a, 5).item() > 0.98
    assert ncc(a, b, 5).item() < 0.05
    assert ncc(a, torch.full_like(a, 0.3), 5).item() < 1e-4
    middle = torch.nn.functional.pad(a, (8,) * 6), torch.nn.functional.pad(b, (8,) * 6)
    assert ncc(*middle, 5).item() < 0.1


def test_ncc_of_a_batch_is_the_mean_of_each() -> None:
    a, b = picture((9, 8, 10), 1, batch=2), picture((9, 8, 10), 2, batch=2)
    each = [ncc(a[k : k + 1], b[k : k + 1], 5) for k in range(2)]
    torch.testing.assert_close(ncc(a, b, 5), torch.stack(each).mean())


def test_smoothness_is_the_mean_squared_strain() -> None:
    assert losses.smoothness(constant(3, -2, 1), 2.0).item() == pytest.approx(0, abs=1e-9)
    u = linear(np.array([[1.1, 0.2, 0], [0, 0.7, 0], [0, 0, 1]]), spacing=2.0)
    expected = (0.1**2 + 0.2**2 + 0.3**2) / 9
    assert losses.smoothness(u, 2.0).item() == pytest.approx(expected, rel=1e-4)


def test_mean_shape_wants_the_halves_to_cancel_and_is_bounded_below() -> None:
    u = smooth_field(SIZE, 0.3, 3)
    assert losses.mean_shape(u, -u, 2.0).item() == 0
    both = losses.mean_shape(constant(2, 0, 0), constant(0, 4, 0), 2.0)
    assert both.item() == pytest.approx(1 + 4)  # |(1, 2, 0)|^2 voxels
    assert losses.mean_shape(-constant(9, 9, 9), -constant(9, 9, 9), 1.0) > 0


def test_soft_dice_counts_only_labels_that_are_there() -> None:
    a = torch.zeros(1, 3, *SIZE)
    a[:, 0, :4], a[:, 1, 4:] = 1, 1
    assert losses.soft_dice(a, a).item() == pytest.approx(0)
    b = torch.zeros_like(a)
    b[:, 0, 4:], b[:, 1, :4] = 1, 1
    assert losses.soft_dice(a, b).item() == pytest.approx(1)
    half = torch.zeros_like(a)
    half[:, 0, 2:4], half[:, 1, 4:] = 1, 1
    assert losses.soft_dice(a, half).item() == pytest.approx(1 - (2 * 2 / 6 + 1) / 2)
