"""Recipes: the specs, reading YAML with line numbers, resolving `auto`, the JSON Schema."""
