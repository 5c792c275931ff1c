"""One module for each program; each has its `PROGRAM`."""
