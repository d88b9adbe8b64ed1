"""The version and the protocol's number, written once."""

__version__ = "0.1.0"

#: The protocol between the processes of a session: messages, references, settings, the
#: stored layout. Peers work together if they have the same number. Raise it when peers
#: with the old and the new number could misunderstand each other.
PROTOCOL = 1
