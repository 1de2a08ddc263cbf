"""A program of a user who has no hfstrat: it runs the lines of model cards, and writes down what they say.

`python loads_without_hfstrat.py JOBS`, where JOBS is a JSON file of programs; each gets `logits` and `labels` added.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
jobs = json.loads(Path(sys.argv[1]).read_text("utf-8"))
for job in jobs:
    names = {}
    exec(compile(job["program"], job["name"], "exec"), names)
    job["logits"], job["labels"] = names["logits"].tolist(), names["labels"]
    assert not names["model"].training
assert "hfstrat" not in sys.modules
Path(sys.argv[1]).write_text(json.dumps(jobs), "utf-8")
