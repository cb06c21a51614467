"""Every call that reached the simulated cloud, in order, one JSON object a line: what tests assert on.

{"n": 7, "time": 1764190000.1, "service": "ec2", "operation": "RunInstances", "caller": "control", "status": 200,
 "error": null, "fault": null, "az": "us-east-1a", "instance_type": "p5.48xlarge", "instance_ids": ["i-0a.."], ..}
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any


class Journal:
    """Appends calls to a file and keeps them in memory. Safe for threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._guard = threading.Lock()
        self._entries: list[dict[str, Any]] = []

    def add(self, **facts: Any) -> None:
        """Record one call."""
        with self._guard:
            entry = {"n": len(self._entries), "time": time.time(), **facts}
            self._entries.append(entry)
            self._file.write(json.dumps(entry, default=str) + "\n")
            self._file.flush()

    def entries(self, since: int = 0) -> list[dict[str, Any]]:
        """Calls from number `since` on."""
        with self._guard:
            return self._entries[since:]

    def close(self) -> None:
        """Free the descriptor."""
        with self._guard:
            self._file.close()
