"""`python3 agent.pyz BOOT.json`: the agent's process. Working folder: LONGFUSE_NODE_DIR, /var/lib/longfuse.

Exit code 0 after exit.json was written and the power-off asked for; 70 for a failure of the agent itself, whose caller
(user data) then uploads boot.log and powers off.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path

from .agent import Agent
from .boot import read_boot

DEFAULT_FOLDER = "/var/lib/longfuse"


class ToLines(logging.Handler):
    """The agent's own words stand among the stage's, marked."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._agent = agent

    def emit(self, record: logging.LogRecord) -> None:
        self._agent.lines.add(self._agent.redact(f"[agent] {record.getMessage()}"))


def main(arguments: list[str]) -> int:
    """Run the attempt that BOOT.json describes, then power off."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        boot = read_boot(Path(arguments[0]))
        agent = Agent(boot, Path(os.environ.get("LONGFUSE_NODE_DIR", DEFAULT_FOLDER)))
        logging.getLogger().addHandler(ToLines(agent))
        agent.run()
    except Exception:  # the agent's last words, for boot.log  # noqa: BLE001
        sys.stderr.write(traceback.format_exc())
        return 70
    agent.power.off()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
