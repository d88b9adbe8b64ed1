"""The command line. Two clusters: one in processes, one started by commands."""
