"""Names for type checkers that the oldest supported Python lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import override as override
else:

    def override(method):
        """Mark a method that a base class has, and documents, as well."""
        return method
