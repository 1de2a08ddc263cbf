"""`hfstrat evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

from hfstrat.report.tables import Measure, markdown_table, score
from hfstrat.verbs.progress import observer, say, show


def run(path: Path, data: str | None, name: str | None, as_json: bool, quiet: bool) -> None:
    """Score a finished run on other data and show the metrics."""
    listener = observer(quiet=quiet)
    with listener.working("loading torch and transformers"):
        from hfstrat.execute import quiet as silence
        from hfstrat.inference import Predictor
    silence()
    predictor = Predictor.of(path)
    result = predictor.evaluate(data, name, listener)
    listener.finished()
    if as_json:
        print(json.dumps(result))
        return
    rows = [(metric, score(Measure.over([found]))) for metric, found in result["metrics"].items()]
    say(f"{path} on {result['split']}, {result['n']:,} rows\n")
    show(markdown_table(["metric", "value [95 % interval]"], rows))
    say(f"\n{path / 'evaluations' / (name or result['split'])} holds metrics and predictions.")
