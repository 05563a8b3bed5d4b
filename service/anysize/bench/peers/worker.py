"""The program around a contender. Run as a file, by an interpreter that need not have anysize installed.

Its one argument is a JSON object: `contender` names the module beside this one, `options` is for its `load`. It says
`{"ready": true}` once that has returned, then answers each line of standard input with one of standard output; what
these hold is in `peer.py`. Whatever the contender prints goes to standard error.
"""

import importlib.util
import json
import os
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Load, then answer until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    job = json.loads(sys.argv[1])
    path = Path(__file__).with_name(f"{job['contender']}.py")
    # The module may have the name of the very package it imports, so it is loaded by its path.
    spec = importlib.util.spec_from_file_location(f"contender_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    contender = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contender)
    answer = contender.load(**job["options"])
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        token_ids, total_s, decode_s = answer(**json.loads(line))
        reply = {"token_ids": token_ids, "total_s": total_s, "decode_s": decode_s}
        print(json.dumps(reply), file=replies, flush=True)


def _leave_with(parent: int) -> None:
    """End this process once the benchmark has gone, however it went: loading may take minutes of everybody's cores."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
