"""Where examples come from, how they are split, audited and batched."""
