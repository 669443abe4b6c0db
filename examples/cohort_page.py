"""Measure how long a browser takes to open the page of a made-up cohort, and how large it is.

python examples/cohort_page.py --count 1000

The thumbnails are noise of the largest size allowed. Told are the milliseconds from the start of
the navigation until all is built and laid out, by the browser's own clock; and how many seconds
longer a screenshot of the page takes than one of an empty page, by ours, painting included. Both
--times times, each with a fresh profile. Needs chromium.
"""

from __future__ import annotations

import argparse
import base64
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browsers import BROWSER, NO_BROWSER
from cohorts import PLANTED, changed, cohort

from hsyn_cli.cohort import page
from hsyn_cli.cohort.outliers import find
from hsyn_cli.cohort.page.pairs import About
from hsyn_cli.cohort.thumbnail import MOST_BYTES, SHADES, palette, png

PROBE = """<script>
document.body.offsetHeight;
document.title = `opened ${Math.round(performance.now())}`;
document.querySelector("#data").remove();
</script></body>"""


def made_up(count: int) -> str:
    """The page of a cohort with five failures and thumbnails of noise."""
    rng = np.random.default_rng(0)
    rows = cohort(count)
    for k, values in enumerate(PLANTED):
        rows[k * count // len(PLANTED)] = changed(rows[k * count // len(PLANTED)], values)
    pictures = {}
    for row in rows:
        codes = rng.integers(0, SHADES, (65, 220)).astype(np.uint8)
        data = png(codes, palette())[: MOST_BYTES + 1000]
        assert len(data) >= 0.9 * MOST_BYTES
        text = base64.b64encode(data[:MOST_BYTES]).decode()
        pictures[row.id] = f"data:image/png;base64,{text}"
    abouts = {row.id: About() for row in rows}
    return page.make_page("made up", rows, find(rows), pictures, abouts)


def browse(page: Path, *how: str) -> str:
    """What a browser with a fresh profile prints of a page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--window-size=1400,1000", f"--user-data-dir={profile}",
            *how, page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)  # noqa: S603
        return done.stdout


def seconds(page: Path) -> float:
    """Of a screenshot."""
    start = time.monotonic()
    browse(page, f"--screenshot={page.with_suffix('.png')}")
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    if BROWSER is None:
        raise SystemExit(NO_BROWSER)
    with tempfile.TemporaryDirectory() as name:
        whole, probed, empty = (Path(name) / f"{k}.html" for k in ("whole", "probed", "empty"))
        text = made_up(given.count)
        whole.write_text(text, encoding="utf-8")
        probed.write_text(text.replace("</body>", PROBE), encoding="utf-8")
        empty.write_text("<!doctype html>")
        built, longer = [], []
        for _ in range(given.times):
            (found,) = re.findall(r"<title>opened (\d+)</title>", browse(probed, "--dump-dom"))
            built.append(int(found))
            longer.append(round(-seconds(empty) + seconds(whole), 2))
    print(f"{given.count} pairs, {len(text.encode()) / 1e6:.1f} MB")  # noqa: T201
    print(f"built in {sorted(built)} ms; a screenshot takes {sorted(longer)} s longer")  # noqa: T201


if __name__ == "__main__":
    main()
