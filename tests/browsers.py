"""A headless browser for the tests of the pages; without one they are skipped, and it is told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
NO_BROWSER = f"no browser here: install one of {', '.join(NAMES)}"
needs_browser = pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)

PROBE = """<script>(async () => {
  while (document.documentElement.dataset.ready !== "yes")
    await new Promise((done) => setTimeout(done, 20));
  const answer = await (async () => { BODY })();
  parent.postMessage(JSON.stringify(answer), "*");
})();</script>"""
FRAME = """<!doctype html><iframe src="{file}#{view}" width="{width}" height="900"></iframe>
<script>addEventListener("message", (event) => {{
  document.documentElement.dataset.found = event.data;
}});</script>"""


def in_browser(
    folder: Path, text: str, body: str, width: int = 1280, view: str = ""
) -> dict[str, Any]:
    """What a script finds in a page shown `width` px wide.

    Args:
        folder: where the page lies. text: of the page.
        body: of an asynchronous function in JavaScript, which returns an object.
        view: what follows # in the address.
    """
    probe = PROBE.replace("BODY", body)
    (folder / "probed.html").write_text(
        text.replace("</body>", f"{probe}</body>"), encoding="utf-8"
    )
    frame = FRAME.format(file="probed.html", view=view, width=width)
    (folder / "frame.html").write_text(frame, encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--dump-dom", "--virtual-time-budget=4000", "--window-size=1400,1000",
        f"--user-data-dir={folder / 'profile'}",
        (folder / "frame.html").as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found is not None, dom[:500]
    plain = found.group(1).replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">")
    answer: dict[str, Any] = json.loads(plain.replace("&amp;", "&"))
    return answer
