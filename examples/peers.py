#!/usr/bin/env python3
"""Register one pair with a widely used tool. benchmark.py runs this in a process of its own.

    python examples/peers.py ants|greedy MOVING FIXED OUT_DIR [FACTOR]

ants is antsRegistrationSyNQuick[s] of antspyx. greedy is the affine and deformable registration of
picsl_greedy with NCC. The script writes to OUT_DIR: forward_field.nii.gz (total displacement in
mm, LPS, on the fixed grid), inverse_field.nii.gz (its inverse, on the moving grid; greedy's is
that of -oinv), and seconds.txt (of the registration alone). ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS
sets the threads; all cores if it is not set. FACTOR multiplies greedy's default sigmas.
"""

import os
import shutil
import sys
import time
from pathlib import Path

GREEDY_SIGMAS = (1.732, 0.7071)  # its defaults, in voxels: of each step and of the whole field
THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"


def run_ants(moving: str, fixed: str, out: Path) -> float:
    import ants

    fixed_image, moving_image = ants.image_read(fixed), ants.image_read(moving)
    start = time.perf_counter()
    result = ants.registration(
        fixed_image, moving_image, type_of_transform="antsRegistrationSyNQuick[s]"
    )
    seconds = time.perf_counter() - start
    inverse = result["invtransforms"]
    flags = [name.endswith(".mat") for name in inverse]  # ants inverts the affine on use
    for name, grid, other, transforms, invert in (
        ("forward_field", fixed_image, moving_image, result["fwdtransforms"], None),
        ("inverse_field", moving_image, fixed_image, inverse, flags),
    ):
        field = ants.apply_transforms(
            grid, other, transforms, whichtoinvert=invert, compose=str(out / name)
        )
        shutil.move(field, out / f"{name}.nii.gz")
    return seconds


def run_greedy(moving: str, fixed: str, out: Path, factor: float = 1.0) -> float:
    from picsl_greedy import Greedy3D

    greedy = Greedy3D()
    common = f"-d 3 -threads {os.environ.get(THREADS, os.cpu_count())}"
    match = f"{common} -m NCC 2x2x2 -n 100x50x10 -i {fixed} {moving}"
    affine, warp, inverse = (out / name for name in ("affine.mat", "warp.nii.gz", "back.nii.gz"))
    start = time.perf_counter()
    greedy.execute(f"{match} -a -ia-image-centers -o {affine}")
    sigmas = " ".join(f"{factor * sigma:g}vox" for sigma in GREEDY_SIGMAS)
    match += "" if factor == 1 else f" -s {sigmas}"
    greedy.execute(f"{match} -it {affine} -wp 0 -o {warp} -oinv {inverse}")
    seconds = time.perf_counter() - start
    for name, grid, transforms in (  # a point goes through them from left to right
        ("forward_field", fixed, f"{warp} {affine}"),
        ("inverse_field", moving, f"{affine},-1 {inverse}"),
    ):
        greedy.execute(f"{common} -rf {grid} -rc {out / name}.nii.gz -wp 0 -r {transforms}")
    return seconds


def main() -> None:
    name, moving, fixed, out, *factor = sys.argv[1:6]
    register, distribution = {
        "ants": (run_ants, "antspyx"),
        "greedy": (run_greedy, "picsl_greedy"),
    }[name]
    try:
        seconds = register(moving, fixed, Path(out), *map(float, factor))
    except ImportError:
        sys.exit(f"{distribution} is not installed: pip install {distribution}")
    (Path(out) / "seconds.txt").write_text(str(seconds))


if __name__ == "__main__":
    main()
