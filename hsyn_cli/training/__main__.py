"""`python -m hsyn_cli.training cache|run`: from folders of scans and label maps to a checkpoint."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import torch

from hsyn_cli import config
from hsyn_cli.di_net import DINet
from hsyn_cli.sn_net import SNNet
from hsyn_cli.training.data import build_cache, load_cache
from hsyn_cli.training.loop import Stage, train_di_net, train_sn_net
from hsyn_cli.unet import UNet
from hsyn_cli.weights import load, save

CROP = (96, 112, 96)


@click.group()
def main() -> None:
    """Train hsyn's networks on local data."""


@main.command()
@click.argument("scans", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("maps", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def cache(scans: Path, maps: Path, out: Path) -> None:
    """Align the scans and label maps (*.nii.gz) of two folders to one grid, once."""
    build_cache(sorted(scans.glob("*.nii.gz")), sorted(maps.glob("*.nii.gz")), out, click.echo)


@main.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("checkpoint", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--minutes", nargs=5, type=float, default=(25, 15, 15, 30, 8), show_default=True,
              help="Level 1; level 2 alone; levels 1 and 2; level 3; DI-Net. 0 skips a stage.")  # fmt: skip
@click.option(
    "--levels", type=click.IntRange(1, 3), default=3, show_default=True, help="How many SN-Net gets."
)
@click.option("--start", type=click.Path(exists=True, path_type=Path), help="Go on from this checkpoint.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--bf16/--no-bf16", default=False, show_default=True,
              help="Convolutions in bfloat16: faster on processors that have it, far slower on others.")  # fmt: skip
def run(
    data: Path,
    checkpoint: Path,
    minutes: tuple[float, ...],
    levels: int,
    start: Path | None,
    seed: int,
    bf16: bool,
) -> None:
    """Train and write CHECKPOINT (.safetensors) after each stage; CHECKPOINT.jsonl gets the log."""
    torch.manual_seed(seed)
    arrays = load_cache(data)
    sn = SNNet(config.SNNetConfig(levels=config.SNNetConfig().levels[:levels]))
    di = DINet(config.DINetConfig())
    if start is not None:
        tensors = load(str(start)).tensors
        known = {k[3:]: v for k, v in tensors.items() if k.startswith("sn.")}
        fresh = [k for k, v in sn.state_dict().items() if k not in known or known[k].shape != v.shape]
        anew = {k.split(".")[1] for k in fresh}  # levels that it lacks, or has in another shape
        sn.load_state_dict(
            {k: v if k.split(".")[1] in anew else known[k] for k, v in sn.state_dict().items()}
        )
        di.load_state_dict({k[3:]: v for k, v in tensors.items() if k.startswith("di.")})
    for module in (*sn.modules(), *di.modules()):
        if isinstance(module, UNet):
            module.precision = torch.bfloat16 if bf16 else torch.float32
    architecture = {"sn_net": config.to_dict(sn.config), "di_net": config.to_dict(di.config)}
    stages = (
        Stage(0, 1, minutes[0], 1e-3, look=2),
        Stage(1, 2, minutes[1]),
        Stage(0, 2, minutes[2], 8e-4),
        Stage(2, 3, minutes[3], 1e-3, CROP),
    )

    def keep() -> None:
        tensors = {f"sn.{k}": v for k, v in sn.state_dict().items()} | {
            f"di.{k}": v for k, v in di.state_dict().items()
        }
        save(checkpoint, tensors, architecture)

    begun, saved = time.monotonic(), time.monotonic()
    with checkpoint.with_suffix(".jsonl").open("a") as log:
        for name, records in (
            ("sn_net", train_sn_net(sn, arrays, tuple(s for s in stages if s.minutes > 0), seed)),
            ("di_net", train_di_net(di, sn, arrays, minutes[4], seed) if minutes[4] else iter(())),
        ):
            for record in records:
                line = json.dumps(
                    {"net": name, "elapsed_min": round((time.monotonic() - begun) / 60, 2), **record}
                )
                log.write(line + "\n")
                log.flush()
                click.echo(line)
                if time.monotonic() - saved > 120 or "val_ncc" in record:
                    keep()
                    saved = time.monotonic()
            keep()


if __name__ == "__main__":
    main()
