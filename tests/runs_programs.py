"""A user's process without hfstrat: it runs the programs that it is handed, one after the other.

Each line of its input is a program that leaves `model` and some of `logits`, `labels` and `found`; each line of its
output is what became of it.
"""

import builtins
import json
import os
import sys
import traceback
import warnings

asked: list[str] = []


def answer_no(question: str = "") -> str:
    """Nobody is there to ask, and the next line of the input is the next program."""
    asked.append(question)
    return "n"


warnings.filterwarnings("ignore")
builtins.input = answer_no
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)  # what programs print is none of the answers
for line in sys.stdin:
    names = {}
    try:
        exec(compile(json.loads(line), "program", "exec"), names)
        answer = {
            "logits": names["logits"].tolist() if "logits" in names else None,
            "labels": names.get("labels"),
            "found": names.get("found"),
            "training": names["model"].training,
        }
    except Exception:
        answer = {"error": traceback.format_exc()}
    answer |= {"asked": asked.copy(), "imports_hfstrat": any(name.split(".")[0] == "hfstrat" for name in sys.modules)}
    asked.clear()
    print(json.dumps(answer), file=answers, flush=True)
