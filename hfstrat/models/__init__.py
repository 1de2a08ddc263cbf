"""Models: finding their parts, building them, saving and loading what was trained."""
