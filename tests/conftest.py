"""One thread for torch: on these small tensors more threads only wait for one another."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
