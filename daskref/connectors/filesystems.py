"""The file system of a directory."""

from __future__ import annotations

import os
import re

#: File systems on which only this host deletes files.
_LOCAL = frozenset(
    {
        *("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs"),
        *("jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"),
    }
)


def is_local(path: str) -> bool:
    """Tell whether a directory is on a file system that no other host can change.

    On a network file system, another host may delete a mapped file; a process that
    accesses the mapping is then killed by SIGBUS.
    """
    return kind_of(path) in _LOCAL


def is_memory(path: str) -> bool:
    """Tell whether the files of a directory take memory."""
    return kind_of(path) in ("ramfs", "tmpfs")


def kind_of(path: str) -> str:
    """Return the type of a directory's file system; empty if unknown."""
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
