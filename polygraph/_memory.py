"""How much memory there is: what the machine has left, and what a container may take."""

from __future__ import annotations

import contextlib
from pathlib import Path

_UNKNOWN = 1 << 62  # where the system does not tell
_MOST_READ = 1 << 34
_RESERVE = 1 << 26  # left alone where something large is made: for all that is small


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that this process can still take without being killed, in bytes.

    The least of what Linux counts as available and of what the control groups of this process
    leave: their limit (``memory.max`` of version 2, ``memory.limit_in_bytes`` of version 1) less
    what is in use, cached files left out; and of what the limit of its addresses (``ulimit -v``)
    leaves. 2^62 where nothing tells.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    free = [_UNKNOWN]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        free.append(1024 * int(line.split()[1]))
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                free += _left(root / "sys/fs/cgroup", path, "memory.max", "memory.current")
            elif "memory" in controllers.split(","):
                names = "memory.limit_in_bytes", "memory.usage_in_bytes"
                free += _left(root / "sys/fs/cgroup/memory", path, *names)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            pages = int((root / "proc/self/statm").read_text().split()[0])
            free.append(most - pages * resource.getpagesize())
    return max(0, min(free))


def readable_bytes() -> int:
    """Size of the largest file that is read whole, beside what is made of it, in bytes."""
    return min(available_bytes() // 2, _MOST_READ)


def check_room(size: int, what: str, error: type[Exception] = ValueError) -> None:
    """Refuse something large before memory is taken for it.

    Args:
        size: bytes that it takes.
        what: begins the message.
        error: the exception to raise.

    Raises:
        error: it is more than the memory there is, less 64 MiB.
    """
    left = max(0, available_bytes() - _RESERVE)
    if size > left:
        raise error(f"{what}: needs {size} bytes of memory, more than the {left} there are")


def _left(mount: Path, path: str, limit: str, usage: str) -> list[int]:
    """What a group and those that it is in leave; groups that do not tell are left out."""
    inner = mount / path.lstrip("/")
    # Within a container its own group is the mount itself, whatever the path says.
    groups = [inner, *(group for group in inner.parents if group.is_relative_to(mount)), mount]
    found = []
    for group in dict.fromkeys(groups):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            most = int((group / limit).read_text())
            used = int((group / usage).read_text())
            found.append(most - used + _cached(group / "memory.stat"))
    return found


def _cached(path: Path) -> int:
    """Bytes of files that the group holds and that the kernel takes back when it must."""
    for line in path.read_text().splitlines():
        name, value = line.split()
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0
