"""A process that evaluates a scripted model slowly and logs every call: started and killed by test_kills.py.

python killed_evaluation.py OUT LOG CONCURRENT
"""

import os
import sys
import time
from pathlib import Path

from asking_world import ask, planned, question, settings

from stages.evaluation import planning
from stages.evaluation.session import write_evaluation

QUESTIONS = 12
SAMPLES = 2


def main(out: Path, log: Path, concurrent: int) -> None:
    planning._UNIT_QUESTIONS = 3

    def script(prompt, request, index):
        name = prompt.rsplit(": capital", 1)[0].rsplit("\n", 1)[-1]
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{name}\n".encode())
        os.close(descriptor)
        time.sleep(0.01)
        return f"Oslo {request.seed % 97} {index}"

    items = planned(*(question(f"q{number:02d}", gold="7") for number in range(QUESTIONS)))
    evaluation = ask(items, out / "state", settings(samples=SAMPLES), script, concurrent=concurrent).evaluation
    write_evaluation(out, "scripted", evaluation)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
