"""Whole studies: comparing strategies, and what can be said before one runs."""
