"""Advise: which strategy to train by, what speaks for it, and how sure that is."""
