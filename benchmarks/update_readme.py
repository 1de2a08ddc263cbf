"""Put what finished comparisons found into the documents of `PAGES`, and their pictures into docs/.

    hfstrat compare recipes/demo.yaml
    hfstrat compare recipes/text-classification/banking77-compare.yaml name=banking77
    hfstrat compare recipes/text-classification/banking77-adapters.yaml
    hfstrat compare recipes/text-classification/banking77-curves.yaml --seeds 0,1,2
    python benchmarks/pictures.py cifar transfer --data DIR --folder runs/pictures
    python benchmarks/sounds.py --data DIR --folder runs/sounds
    python benchmarks/update_readme.py [RUNS]

A block between `<!-- table: NAME -->` and `<!-- /table -->` gets the arms of the comparison RUNS/NAME, one between
`<!-- factors: NAME -->` and `<!-- /factors -->` what decides between its strategies, one between `<!-- curve: NAME -->`
and `<!-- /curve -->` how good each is on which amount of data. A recipe's line `# Measured as the arm ARM of NAME` gets
the figures of that arm in recipes/README.md.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from hfstrat.report.factors import Factors
from hfstrat.report.tables import duration, markdown_table
from hfstrat.study.compare import load

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "recipes/README.md", "docs/strategies.md")
PICTURES = {
    "demo/quality-against-time.png": "demo.png",
    "banking77/quality-against-time.png": "banking77.png",
    "banking77-curves/quality-against-rows.png": "banking77-curves.png",
}
BLOCK = re.compile(r"(<!-- (?P<what>table|factors|curve): (?P<name>[\w/-]+) -->\n).*?(<!-- /(?P=what) -->)", re.S)


MEASURED = re.compile(r"^# Measured as the arm (?P<arm>\S+) of (?P<name>[\w-]+).*$", re.M)


def measured(arm: str, name: str, page: str) -> str:
    """The line of a recipe that says what was measured of it.

    Args:
        arm: The arm that trains as the recipe does.
        name: Its comparison.
        page: The text of recipes/README.md.
    """
    table = next(block[0] for block in BLOCK.finditer(page) if (block["what"], block["name"]) == ("table", name))
    titles, _, *rows = (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|"))
    row = dict(zip(titles, next(row for row in rows if row[0] == arm), strict=False))
    said = f"accuracy {row['accuracy']}, {row['time']}, {row['peak live memory']} live"
    return f"# Measured as the arm {arm} of {name} (recipes/README.md): {said}"


def curve(folder: Path) -> str:
    """How good each arm of a comparison is on which amount of data, in what time; the best ones are bold.

    Args:
        folder: The comparison's directory.
    """
    found = load(folder)
    frame, amounts = found.curve(), found.shape.winners
    cells: dict[tuple[str, str], str] = {}
    for row in frame.itertuples():
        score = f"{row.value:.3f} [{row.low:.3f}–{row.high:.3f}]"
        cells[row.arm, row.size] = f"{f'**{score}**' if row.best else score}, {duration(row.seconds)}"
    titles = [found.metrics[0], *(one.amount for one in amounts)]
    lines = [[arm, *(cells.get((arm, one.size), "") for one in amounts)] for arm in frame["arm"].unique()]
    table = markdown_table(titles, lines, right=[False, *[True] * len(amounts)])
    return f"{table}\n{found.shape.markdown()}"


def main(runs: Path) -> None:
    """Update every block whose comparison is there, what recipes say of it, and every picture."""

    def written(block: re.Match[str]) -> str:
        found = runs / block["name"]
        if not (found / "table.md").is_file():
            print(f"{found} is not there: the block stays as it is")
            return block[0]
        if block["what"] == "curve":
            return f"{block[1]}{curve(found).strip()}\n{block[4]}"
        factors = Factors.of(json.loads((found / "factors.json").read_text("utf-8"))).markdown()
        # The file begins with what decides, where there are two strategies at least.
        arms = (found / "table.md").read_text("utf-8").removeprefix(factors)
        return f"{block[1]}{(factors if block['what'] == 'factors' else arms).strip()}\n{block[4]}"

    for page in PAGES:
        path = ROOT / page
        path.write_text(BLOCK.sub(written, path.read_text("utf-8")), "utf-8")
    page = (ROOT / "recipes" / "README.md").read_text("utf-8")
    for path in (ROOT / "recipes").rglob("*.yaml"):
        text = path.read_text("utf-8")
        path.write_text(MEASURED.sub(lambda found: measured(found["arm"], found["name"], page), text), "utf-8")
    for picture, target in PICTURES.items():
        if (runs / picture).is_file():
            shutil.copy(runs / picture, ROOT / "docs" / target)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs")
