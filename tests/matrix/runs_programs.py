"""A user's process without hfstrat: it runs the programs that it is handed, one after the other.

Each line of its input is a program that leaves `logits`; each line of its output is what the program left, as JSON.
"""

import json
import os
import sys
import traceback
import warnings

warnings.filterwarnings("ignore")
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)  # what programs print is none of the answers
for line in sys.stdin:
    names = {}
    try:
        exec(compile(json.loads(line), "program", "exec"), names)
        answer = {"logits": names["logits"].tolist(), "training": names["model"].training}
    except Exception:
        answer = {"error": traceback.format_exc()}
    answer["imports_hfstrat"] = any(name.partition(".")[0] == "hfstrat" for name in sys.modules)
    print(json.dumps(answer), file=answers, flush=True)
