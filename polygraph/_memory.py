"""How much memory there is: what the machine has left, and what a container may take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
    for group in control_groups(root, "memory"):
        free += _left(group, "memory.max", "memory.current")
        free += _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes")
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


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that limit this process, from its own to the outermost.

    Args:
        root: where ``proc`` and ``sys`` lie.
        controller: what is limited, such as ``memory`` or ``cpu``; version 1 has groups for each.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = mount / path.lstrip("/")
        # Within a container its own group is the mount itself, whatever the path says.
        groups = [inner, *(group for group in inner.parents if group.is_relative_to(mount)), mount]
        yield from dict.fromkeys(groups)


def _left(group: Path, limit: str, usage: str) -> list[int]:
    """What a group leaves; nothing if it does not tell."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
        most = int((group / limit).read_text())
        return [most - int((group / usage).read_text()) + _cached(group / "memory.stat")]
    return []


def _cached(path: Path) -> int:
    """Bytes of files that the group holds and that the kernel takes back when it must."""
    for line in path.read_text().splitlines():
        name, value = line.split()
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0
