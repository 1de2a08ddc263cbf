"""Put the tables of finished comparisons into README.md and recipes/README.md, and their pictures into docs/.

    hfstrat compare recipes/demo.yaml
    hfstrat compare recipes/text-classification/banking77-compare.yaml name=banking77
    hfstrat compare recipes/text-classification/banking77-adapters.yaml
    python benchmarks/update_readme.py

A block between `<!-- table: NAME -->` and `<!-- /table -->` is replaced by `runs/NAME/table.md`.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "recipes/README.md")
PICTURES = {"demo": "demo.png", "banking77": "banking77.png"}
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.S)


def main(runs: Path) -> None:
    """Update every block whose comparison is there, and every picture."""

    def table(block: re.Match[str]) -> str:
        file = runs / block["name"] / "table.md"
        if not file.is_file():
            print(f"{file} is not there: the block stays as it is")
            return block[0]
        return f"{block[1]}{file.read_text('utf-8').strip()}\n{block[3]}"

    for page in PAGES:
        path = ROOT / page
        path.write_text(BLOCK.sub(table, path.read_text("utf-8")), "utf-8")
    for name, target in PICTURES.items():
        picture = runs / name / "quality-against-time.png"
        if picture.is_file():
            shutil.copy(picture, ROOT / "docs" / target)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs")
