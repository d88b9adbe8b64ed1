"""Objects as files of one directory: names, locks, mappings, recycling."""
