"""Names of the files in a directory of objects."""

from __future__ import annotations

import re

#: Name of an object; the first digits are its writer's.
NAME = re.compile("[0-9a-f]{8}-[0-9a-f]{24}")
#: Prefixes of an object's name: its lease; its file while it is written.
LEASE, PART = "l-", ".w-"
#: Its file while it is fetched from another host; the file with the progress of that;
#: its file while another host sends it.
ARRIVING, ARRIVAL, PUSHED = ".f-", "f-", ".u-"
#: Its second name in memory while it is moved to disk.
MOVING = ".m-"
#: Size in the key of an object that did not exist when the key was made.
UNKNOWN_SIZE = -1
