"""Errors of Python, the system and libraries as errors of hsyn: a line, a hint, an exit code."""

from __future__ import annotations

import errno
import os

from hsyn_cli.errors import HsynError, InputError, MemoryLimitError, OutputError

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
DENIED = (errno.EACCES, errno.EPERM)
# How torch on a GPU, torch on a CPU and ITK, and C++ report it.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "bad_alloc")
LESS_MEMORY = "try --preset fast, close other programs, or resample both images to larger voxels"


def known(error: Exception) -> HsynError | None:
    """The error of hsyn that tells the same; None: `error` is a bug."""
    if isinstance(error, HsynError):
        return error
    if isinstance(error, OSError):
        return of_the_system(error)
    if isinstance(error, MemoryError | RuntimeError):
        return out_of_memory(error)
    return None


def of_the_system(error: OSError) -> HsynError:
    """The error for an OSError that no other module told; of writing, if reading were allowed."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return InputError(f"the system refuses: {reason}", "check paths and permissions")
    path = os.fsdecode(error.filename)
    new = os.access(os.path.dirname(path) or ".", os.X_OK) and not os.path.lexists(path)
    unwritten = new or os.access(path, os.R_OK)
    if error.errno in UNWRITABLE or (error.errno in DENIED and unwritten):
        return OutputError(f"{path}: {reason}", "choose a folder you may write to")
    return InputError(f"{path}: {reason}", "check the path, and the permissions of its folders")


def out_of_memory(error: MemoryError | RuntimeError) -> MemoryLimitError | None:
    """The error for one of memory; None for any other RuntimeError."""
    if not isinstance(error, MemoryError) and all(sign not in str(error) for sign in OUT_OF_MEMORY):
        return None
    gpu = "CUDA" in str(error)
    message = "the GPU is out of memory" if gpu else "out of memory"
    return MemoryLimitError(message, f"{LESS_MEMORY}, or use --device cpu" if gpu else LESS_MEMORY)
