"""What the files in a directory of objects are called."""

from __future__ import annotations

import re

#: What objects are called; the first digits are their writer's.
NAME = re.compile("[0-9a-f]{8}-[0-9a-f]{24}")
#: What stands before the name: of an object's lease, and while it is written.
LEASE, PART = "l-", ".w-"
#: While it is fetched from another host, and of the file that says how far it is;
#: while another host sends it.
ARRIVING, ARRIVAL, PUSHED = ".f-", "f-", ".u-"
#: While it is moved from memory to disk: a second name in memory.
MOVING = ".m-"
#: In keys of objects that were not there yet when the key was made.
UNKNOWN_SIZE = -1
