"""The tasks: one file each, one line each here."""

from __future__ import annotations

from hfstrat.tasks.text_classification import TextClassification

Task = TextClassification

TASKS = {"text_classification": TextClassification}
