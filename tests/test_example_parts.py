"""examples/parts.py leaves out what it says, and its table gives paired differences."""

import io
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from rich.console import Console
from test_examples import load_with_others

from hsyn_cli.anatomy import organs
from hsyn_cli.config import presets
from hsyn_cli.method import similarity
from hsyn_cli.method.networks import load_networks
from hsyn_cli.method.working import Method


@pytest.fixture(scope="module")
def parts():
    yield from load_with_others("parts.py")


def method(preset: str) -> Method:
    networks, settings = load_networks("brain-t1", torch.device("cpu")), presets.find(preset)
    depth = settings.depth(networks.sn.config.levels)
    measure = similarity.find("ncc")
    return Method(networks, organs.find("brain"), settings, measure, depth, {}, ())


@torch.no_grad()
def halves(given: Method) -> torch.Tensor:
    torch.manual_seed(0)
    moving, fixed = torch.rand(2, 1, 1, 24, 24, 24)
    return torch.cat(given.networks.sn(moving, fixed, given.depth))


def test_every_pair_once_and_each_scan_as_often_among_the_first(parts):
    scans = [{"image": f"{k}", "labels": f"{k}l"} for k in range(10)]
    found = [(row["moving"], row["fixed"]) for row in parts.every(scans)]
    assert len(set(map(frozenset, found))) == len(found) == 45
    assert all(a != b for a, b in found)
    for side in (0, 1):
        assert set(Counter(pair[side] for pair in found[:30]).values()) == {3}
    assert len(list(parts.every(scans[:3]))) == 3


def test_with_nothing_left_out_the_method_is_as_shipped(parts):
    whole = method("fast")
    same = parts.without(whole, [], Counter())
    assert torch.equal(halves(same), halves(whole))
    assert same.depth == 3


def test_each_part_is_left_out_and_its_steps_are_added(parts):
    whole = method("default")
    assert parts.parts(whole) == [parts.net_of(1), parts.net_of(2), parts.TISSUE, parts.DI_NET]
    more = Counter({parts.steps_of(2): 3, parts.REFINEMENT: 2})
    bare = parts.without(whole, parts.parts(whole), more)
    levels = bare.networks.sn.config.levels
    assert [level.repeats for level in levels] == [0, 0]
    assert [level.steps.steps for level in levels] == [24, 14 + 3]
    assert bare.networks.sn.tissue is None
    assert bare.networks.di.config.repeats == 0
    assert sum(s.steps.steps for s in bare.preset.refinement) == 5 + 2
    assert not torch.equal(halves(bare), halves(whole))
    assert whole.networks.sn.config.levels[1].steps.steps == 14, "the method itself is unchanged"


def test_a_level_without_net_and_steps_does_not_run(parts):
    bare = parts.without(method("fast"), [parts.net_of(3)], Counter())
    assert bare.depth == 2
    assert torch.isfinite(halves(bare)).all()


def test_the_table_compares_pair_by_pair(parts, tmp_path: Path):
    (tmp_path / "fast.json").write_text(json.dumps({parts.ALL: [[], {}], "a part": [[], {}]}))
    scores = {"seconds": 2.0, "folded": 0, "trip_mm": 0.1, "trip_max_mm": 0.2, "preset": "fast"}
    rows = []
    for k, (whole, less) in enumerate([(0.5, 0.4), (0.7, 0.66)]):
        for variant, dice in ((parts.ALL, whole), ("a part", less)):
            row = {"moving": f"{k}", "fixed": "x", "variant": variant, "dice": dice}
            rows.append(json.dumps({**row, **scores}))
    rows.append(json.dumps({"moving": "2", "fixed": "x", "variant": parts.ALL, **scores}))  # begun
    (tmp_path / "runs.jsonl").write_text("\n".join([*rows, '{"cut']))
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(parts.table(tmp_path, "fast"))
    shown = console.export_text()
    assert "2 pairs" in shown
    assert "-0.0700 ± 0.0300" in shown  # of -.1 and -.04
