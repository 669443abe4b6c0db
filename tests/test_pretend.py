"""What the pretend device allows and refuses, and the waits that it counts: as CUDA does.

The rules are in torch's documentation ("CUDA semantics", "Tensor Attributes") and in its source,
see `pretend.rules`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from pretend import HALF, MixUp, Record, pretending
from pretend.tensors import Marked
from torch import Tensor, nn

from hsyn_cli.fields import sampling, slabs

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real device")

# Of tensors there (3, 4), here (3, 4), a number here without axes, and one with an axis.
Four = Callable[[Tensor, Tensor, Tensor, Tensor], object]


@pytest.fixture
def record() -> Iterator[Record]:
    with pretending() as record:
        yield record


@pytest.fixture
def four(record: Record) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    here = torch.arange(12.0).view(3, 4) - 5
    return here.cuda() + 1, here, torch.tensor(2.0), torch.tensor([2.0])


ALLOWED: dict[str, Four] = {
    "a number": lambda t, h, n, o: t * n + n - t,
    "a number, compared": lambda t, h, n, o: (t > n) | (n < t),
    "a number added in place": lambda t, h, n, o: t.add_(n),
    "numbers for where": lambda t, h, n, o: torch.where(t > 0, n, n),
    "a number for masked_fill": lambda t, h, n, o: t.masked_fill(t > 0, n),
    "a number for a mask": lambda t, h, n, o: t.__setitem__(t > 0, n),
    "a number to fill with": lambda t, h, n, o: t.fill_(n),
    "an index here": lambda t, h, n, o: t[torch.tensor([2, 0])],
    "a mask here": lambda t, h, n, o: t[h > 0],
    "a list as an index": lambda t, h, n, o: t[:, [0, 2]],
    "written at an index here": lambda t, h, n, o: t.__setitem__(torch.tensor([1]), t[:1] * 1),
    "a copy to it": lambda t, h, n, o: t.copy_(h),
    "a copy from it": lambda t, h, n, o: h.copy_(t),
    "a slice written": lambda t, h, n, o: t.__setitem__(0, h[0]),
    "a slice of the host written": lambda t, h, n, o: h.__setitem__(slice(1, 2), t[:1]),
    "moved there": lambda t, h, n, o: torch.cat((t, h.cuda(), h.to(t), h.to("cuda", t.dtype))),
    "moved here": lambda t, h, n, o: torch.cat((t.cpu(), h, t.to("cpu"), t.to(h))),
    "made there": lambda t, h, n, o: t + torch.ones_like(h, device=t.device) + t.new_tensor([1.0]),
    "an array of the host": lambda t, h, n, o: np.asarray(t.detach().cpu()) + h.numpy(),
}

REFUSED: dict[str, Four] = {
    "one number with an axis": lambda t, h, n, o: t + o,
    "one number with an axis, compared": lambda t, h, n, o: t > o,
    "a device's number for tensors here": lambda t, h, n, o: h * t[0, 0],
    "a number here written to": lambda t, h, n, o: n.add_(t[0, 0]),
    "an operand": lambda t, h, n, o: t * h,
    "an operand in place": lambda t, h, n, o: t.mul_(h),
    "added to the host": lambda t, h, n, o: h.add_(t),
    "out=": lambda t, h, n, o: torch.sub(t, t, out=h),
    "a part of out=": lambda t, h, n, o: torch.sub(h[:1], h[1:2], out=t[:1]),
    "where": lambda t, h, n, o: torch.where(t > 0, t, h),
    "where, its condition": lambda t, h, n, o: torch.where(h > 0, t, t),
    "cat": lambda t, h, n, o: torch.cat((t, h)),
    "stack": lambda t, h, n, o: torch.stack((t, h)),
    "stacked numbers": lambda t, h, n, o: torch.stack((t[0, 0], n)),
    "a product": lambda t, h, n, o: t @ h.T,
    "addmm": lambda t, h, n, o: torch.addmm(h[:, :3], t, t.T),
    "an index in arithmetic": lambda t, h, n, o: torch.arange(4) + t.argmax(1)[:1],
    "an index there of a tensor here": lambda t, h, n, o: h[t.argmax(0)],
    "a mask there of a tensor here": lambda t, h, n, o: h[t > 0],
    "values at an index": lambda t, h, n, o: t.__setitem__(torch.tensor([1]), h[:1]),
    "values of a mask": lambda t, h, n, o: t.__setitem__(t > 5, h[0, :2]),
    "gather": lambda t, h, n, o: t.gather(1, h.argsort(1)),
    "scatter": lambda t, h, n, o: t.scatter(1, t.argsort(1), h),
    "index_select": lambda t, h, n, o: t.index_select(0, torch.tensor([1])),
    "a mask of masked_fill": lambda t, h, n, o: t.masked_fill(h > 0, 0.0),
    "a bound, which no version takes": lambda t, h, n, o: t.clamp(n, 2 * n),
    "a factor, which some versions refuse": lambda t, h, n, o: t.addcmul(t, n),
    "lerp": lambda t, h, n, o: t.lerp(t, h),
    "a convolution": lambda t, h, n, o: nn.Conv1d(4, 2, 1)(t.T[None]),
    "grid_sample": lambda t, h, n, o: F.grid_sample(
        t[None, None], h.view(1, 3, 2, 2), align_corners=False
    ),
    "lists": lambda t, h, n, o: torch._foreach_add([t, t], [t, h]),
    "a generator here": lambda t, h, n, o: torch.rand(
        2, device="cuda", generator=torch.Generator()
    ),
    "a generator there": lambda t, h, n, o: torch.rand(2, generator=torch.Generator("cuda")),
    "noise in place": lambda t, h, n, o: t.normal_(generator=torch.Generator()),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows(name: str, four: tuple[Tensor, ...], record: Record) -> None:
    ALLOWED[name](*four)
    assert not record.mixups


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses(name: str, four: tuple[Tensor, ...], record: Record) -> None:
    there, here, number, one = four
    if "generator" not in name:
        REFUSED[name](here + 1, here.clone(), number.clone(), one)  # the same on one device
    with pytest.raises(RuntimeError, match="device"):
        REFUSED[name](there, here, number, one)


@pytest.mark.parametrize(
    "use", [lambda t: t.numpy(), np.asarray, np.add.reduce, sitk.GetImageFromArray, np.linalg.norm]
)
def test_numpy_does_not_see_a_device(use: Callable[..., object], record: Record) -> None:
    with pytest.raises(TypeError, match=r"can't convert cuda:0"):
        use(torch.zeros(2, 3, device="cuda"))
    assert record.mixups


def test_a_mix_up_that_the_code_catches_is_told(record: Record) -> None:
    with contextlib.suppress(RuntimeError):
        torch.zeros(2, device="cuda") + torch.zeros(2)
    assert len(record.mixups) == 1
    assert "cuda:0 and cpu! (aten.add.Tensor: self (2,) on cuda:0, other (2,) on cpu)" in str(
        record.mixups
    )


def test_tensors_stay_where_they_are(record: Record) -> None:
    """Through views, in-place operators, out=, copies, gradients, modules and optimisers."""
    x = torch.arange(6.0, device="cuda").view(2, 3)
    part = x.T[1:].add_(10)
    torch.sub(part[:1], 1, out=x.T[:1])
    assert x.tolist() == [[10.0, 11.0, 12.0], [13.0, 14.0, 15.0]]  # one memory, as on the host
    every = (x, part, x.double(), x.unbind()[0], x.split(1)[0], x.max(0).values, x.data, x.clone())
    assert all(v.device == torch.device("cuda", 0) and v.is_cuda for v in every)
    assert not any(
        v.is_cuda for v in (x.cpu(), x.to("cpu"), torch.ones(2), torch.empty_like(x.cpu()))
    )
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.LeakyReLU(0.2, inplace=True)).to("cuda")
    optimiser = torch.optim.Adam(net.parameters())
    other = copy.deepcopy(net)
    net(torch.ones(1, 1, 4, 4, 4, device="cuda")).square().mean().backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()
    other.load_state_dict({name: v.cpu() for name, v in net.state_dict().items()})
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        assert all(isinstance(v, Marked) for v in (one, two, one.grad))
        assert torch.equal(one, two)
    assert not any(v.is_cuda for v in net.cpu().parameters())
    assert not record.mixups


def test_gradients_pass_from_the_device_to_the_host(record: Record) -> None:
    here = torch.ones(3, requires_grad=True)
    (here.to("cuda") * torch.tensor([1.0, 2.0, 3.0], device="cuda")).sum().backward()
    assert here.grad is not None
    assert here.grad.tolist() == [1.0, 2.0, 3.0]
    assert not here.grad.is_cuda


def test_autocast_lowers_the_numbers_of_convolutions_alone() -> None:
    with pretending(HALF):
        net, x = nn.Conv3d(1, 2, 3, device="cuda"), torch.ones(1, 1, 4, 4, 4, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            assert net(x).dtype == torch.bfloat16
            assert (x + 1).dtype == torch.float32
            with torch.autocast("cuda", enabled=False):
                assert net(x).dtype == torch.float32
        net(x).sum().backward()


def test_threads_are_on_the_device_too(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a pool, and of slabs, which have none on a device."""
    there = torch.ones(4, device="cuda")
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda k: torch.full((4,), k, device="cuda") + there, (1, 2)))
        assert all(v.is_cuda for v in found)
        with pytest.raises(MixUp):
            pool.submit(lambda: torch.zeros(4) + there).result()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def mixed(first: int, last: int) -> None:
        torch.zeros(4)[first:last].add_(there[first:last])

    for device in ("cpu", "cuda"):
        with pytest.raises(MixUp):
            slabs.each_slab(mixed, 4, 2, torch.device(device))


WAITING: dict[str, tuple[str, Four]] = {
    "float": ("item", lambda t, h, n, o: float(t.sum())),
    "bool": ("item", lambda t, h, n, o: bool((t > 0).any())),
    "tolist": ("download", lambda t, h, n, o: t.tolist()),
    "cpu": ("download", lambda t, h, n, o: t.cpu()),
    "copy_ here": ("download", lambda t, h, n, o: h.copy_(t)),
    "to": ("upload", lambda t, h, n, o: h.to("cuda")),
    "tensor": ("upload", lambda t, h, n, o: torch.tensor([1, 2], device="cuda")),
    "a list as an index": ("upload", lambda t, h, n, o: t[:, [0, 2]]),
    "nonzero": ("nonzero", lambda t, h, n, o: t.nonzero()),
    "a mask": ("nonzero", lambda t, h, n, o: t[t > 0]),
    "a mask written": ("nonzero", lambda t, h, n, o: t.__setitem__(t > 0, t.clone()[t > 0])),
    "solve": ("linalg", lambda t, h, n, o: torch.linalg.solve(t.T @ t + torch.eye(4).cuda(), t[0])),
    "synchronize": ("synchronize", lambda t, h, n, o: torch.cuda.synchronize()),
}
AT_ONCE: dict[str, Four] = {
    "a number for a mask": lambda t, h, n, o: t.__setitem__(t > 0, 0.0),
    "a copy that does not block": lambda t, h, n, o: h.to("cuda", non_blocking=True),
    "arithmetic": lambda t, h, n, o: (t @ t.T * 2).sort().values.cumsum(0),
    "what is made there": lambda t, h, n, o: torch.zeros(3, device=t.device) + t.new_ones(3),
    "the host alone": lambda t, h, n, o: (float(h.sum()), h.nonzero(), h[h > 0], h.tolist()),
}


@pytest.mark.parametrize("name", WAITING)
def test_waits_of_the_host_are_counted(name: str, four: tuple[Tensor, ...], record: Record) -> None:
    kind, use = WAITING[name]
    record.waits.clear()
    use(*four)
    assert (kind, "tests") in record.waits


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_the_host_need_not_wait_for_is_not_counted(
    name: str, four: tuple[Tensor, ...], record: Record
) -> None:
    record.waits.clear()
    AT_ONCE[name](*four)
    assert not record.waits


def test_a_wait_is_told_with_its_line(record: Record) -> None:
    sampling.Voxels.of(torch.ones(2, 3, 4, device="cuda") > 0)
    ((kind, site),) = record.waits
    assert kind == "nonzero"
    assert site.startswith("fields/sampling.py:")
    assert site.endswith(" of")


def test_outside_all_is_as_before() -> None:
    with pretending():
        kept = sampling._centres(3, torch.device("cuda"))
    assert isinstance(kept, Marked)
    assert sampling._centres.cache_info().currsize == 0
    assert not torch.cuda.is_available()
    assert not isinstance(torch.zeros(2), Marked)
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(2, device="cuda")
