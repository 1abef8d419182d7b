"""One process per run folder: a lock on the folder itself, which leaves no file behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from polygraph.train.checkpoint import CheckpointError


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder; nothing is held on systems and file systems that lock no folders.

    Raises:
        CheckpointError: another process holds it; the message says which, if the system tells.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{folder}: {_holder(handle)} is training in this folder"
            ) from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    """Who holds the lock on an open file, as Linux lists it."""
    inode = os.fstat(handle).st_ino
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and int(words[5].split(":")[2]) == inode:
                return f"process {words[4]}"
    return "another process"
