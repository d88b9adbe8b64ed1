"""The version and the protocol's number, written once."""

__version__ = "0.1.0"

#: Of what the processes of a session say to each other: messages, references, settings,
#: what is stored. Peers work together if they have the same. Raise it when a process
#: that has the old one could misunderstand, or be misunderstood.
PROTOCOL = 1
