"""Functions that return a run. Nothing imports them but the command line."""
