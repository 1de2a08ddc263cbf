"""To the Hub and back: push a run, load what was pushed, ask before training whether both will work."""
