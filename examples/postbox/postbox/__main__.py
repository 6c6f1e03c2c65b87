"""`python -m postbox work | put TEXT … | count | check`, on the queue in $REBAKE_DATA (or in this folder)."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from postbox.queue import Queue

IDLE_SECONDS = 0.05
WORK_SECONDS = float(os.environ.get("WORK_SECONDS", "0.2"))
STAMP = os.environ.get("STAMP", "first class")


class Finishing:
    """Told to finish by SIGTERM: the letter under way is done first, then no more is taken."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def work(queue: Queue) -> int:
    me, finishing = os.environ.get("REBAKE_INSTANCE", str(os.getpid())), Finishing()
    print(f"{me} works", flush=True)
    while not finishing.asked:
        letter = queue.take(me)
        if letter is None:
            time.sleep(IDLE_SECONDS)
            continue
        time.sleep(WORK_SECONDS)
        queue.done(letter[0], me, f"{letter[1]}: {STAMP}")
    print(f"{me} finished", flush=True)
    return 0


def main(words: list[str]) -> int:
    queue = Queue(Path(os.environ.get("REBAKE_DATA", "."), "queue.db"))
    match words:
        case ["work"]:
            return work(queue)
        case ["put", *texts] if texts:
            for text in texts:
                queue.put(text)
        case ["count"]:
            print(json.dumps(queue.counts()))
        case ["check"]:
            queue.counts()  # raises, and so ends with 1, when the queue cannot be read
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
