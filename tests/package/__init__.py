"""The package as a whole: layers, names, settings, commands, pages. No cluster."""
