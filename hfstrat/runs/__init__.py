"""The run directory: what a run leaves, and the only thing that reports read."""
