"""Every slab once, in threads of their own, whose number torch has back afterwards."""

import threading

import pytest
import torch

from hsyn_cli.fields.slabs import each_slab

CPU = torch.device("cpu")


@pytest.mark.parametrize("threads", [1, 3])
def test_every_slab_is_worked_on_once(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out, shares, seen = torch.zeros(23), list[float](), set[int]()

        def work(first: int, last: int) -> None:
            out[first:last] += 1
            seen.add(torch.get_num_threads())

        each_slab(work, 23, 5, CPU, shares.append)
        assert (out == 1).all()
        assert shares == [5 / 23, 10 / 23, 15 / 23, 20 / 23, 1]
        assert seen == {1}
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_an_error_comes_through_and_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:

        def work(first: int, last: int) -> None:
            assert threading.current_thread() is not threading.main_thread()
            if first == 2:
                raise ValueError("slab 2")

        with pytest.raises(ValueError, match="slab 2"):
            each_slab(work, 9, 1, CPU)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
