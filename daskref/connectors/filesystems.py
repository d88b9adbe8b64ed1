"""Which file system a directory is on."""

from __future__ import annotations

import os
import re

#: File systems on which nobody but this host deletes a file.
_LOCAL = frozenset(
    {
        *("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs"),
        *("jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"),
    }
)


def is_local(path: str) -> bool:
    """Tell whether a directory is on a file system that no other host can change.

    On a network file system a file may be deleted under a mapping, by another host,
    and who then touches the mapping is killed by SIGBUS.
    """
    return kind_of(path) in _LOCAL


def is_memory(path: str) -> bool:
    """Tell whether what a directory has takes memory."""
    return kind_of(path) in ("ramfs", "tmpfs")


def kind_of(path: str) -> str:
    """Return the kind of file system that a directory is on; empty: not known."""
    target = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            for line in file:
                _, point, found = line.split()[:3]
                point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), point)
                inside = os.path.join(target, "").startswith(os.path.join(point, ""))
                # Equal lengths: the later mount hides the earlier one.
                if inside and len(point) >= len(best):
                    best, kind = point, found
    except OSError:
        return ""
    return kind
