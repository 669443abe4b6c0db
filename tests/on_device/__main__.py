"""Tell where the host waits for the device: PYTHONPATH=tests python -m on_device CHECK ..."""

from __future__ import annotations

import sys

from pretend import pretending

from on_device import CHECKS

for name in sys.argv[1:] or CHECKS:
    with pretending() as record:
        CHECKS[name]("cuda")
    lines = [
        f"{count:6d}  {kind:12s} {site}\n" for (kind, site), count in record.waits.most_common()
    ]
    sys.stdout.write(f"{name}: {record.waits.total()} waits\n{''.join(lines)}")
