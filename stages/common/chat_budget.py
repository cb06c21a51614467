"""Token and money budget of one stage: what a call may cost is set aside before it is made, what it did cost afterwards.

A call counts by its content, once, whether it was paid now or came from the cache: a repeated or resumed run ends where
the first one did. With a `path` the account outlives the process and is shared by all processes
of a stage (for stages that do not replay their calls).
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from stages.common.chat import ChatFailedError, Usage
from stages.common.config import EndpointConfig

logger = logging.getLogger(__name__)


class Budget:
    """An account of tokens and US dollars, for one thread.

    tokens, usd: used so far. exhausted: a call was refused.
    """

    def __init__(
        self,
        limit_tokens: int | None = None,
        limit_usd: float | None = None,
        usd_per_million_input: float = 0.0,
        usd_per_million_output: float = 0.0,
        path: Path | None = None,
    ) -> None:
        self._limit_tokens = limit_tokens
        self._limit_usd = limit_usd
        self._prices = (usd_per_million_input / 1e6, usd_per_million_output / 1e6)
        self._path = path
        self._keys: set[str] = set()
        self._reserved: dict[str, Usage] = {}
        self.tokens = 0
        self.usd = 0.0
        self.exhausted = False
        self._read_bytes = 0
        self._catch_up()

    @classmethod
    def of(cls, endpoint: EndpointConfig, path: Path | None = None) -> Budget:
        """The budget that an endpoint's section names."""
        return cls(
            endpoint.budget_tokens,
            endpoint.budget_usd,
            endpoint.usd_per_million_input_tokens,
            endpoint.usd_per_million_output_tokens,
            path,
        )

    def reserve(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Set aside the most that a call may use. ChatFailedError (budget) if that may exceed a limit."""
        self._catch_up()
        if key in self._keys or (self._limit_tokens is None and self._limit_usd is None):
            return
        wanted = Usage(prompt_tokens, completion_tokens)
        held = [*self._reserved.values(), wanted]
        tokens = self.tokens + sum(usage.prompt_tokens + usage.completion_tokens for usage in held)
        usd = self.usd + sum(self._usd_of(usage) for usage in held)
        over_tokens = self._limit_tokens is not None and tokens > self._limit_tokens
        if over_tokens or (self._limit_usd is not None and usd > self._limit_usd):
            if not self.exhausted:
                logger.warning("the budget of this stage is used up: %d tokens, %.2f USD", self.tokens, self.usd)
            self.exhausted = True
            limit = f"budget_tokens {self._limit_tokens}" if over_tokens else f"budget_usd {self._limit_usd}"
            raise ChatFailedError("budget", f"the call may exceed {limit} ({self.tokens} tokens are used)")
        self._reserved[key] = wanted

    def settle(self, key: str, usage: Usage) -> None:
        """What the call used, in place of what was set aside; a key counts once."""
        self._reserved.pop(key, None)
        if key in self._keys:
            return
        self._count(key, usage)
        if self._path is not None:
            self._append(self._path, key, usage)

    def release(self, key: str) -> None:
        """The call came to nothing."""
        self._reserved.pop(key, None)

    def _count(self, key: str, usage: Usage) -> None:
        self._keys.add(key)
        self.tokens += usage.prompt_tokens + usage.completion_tokens
        self.usd += self._usd_of(usage)

    def _usd_of(self, usage: Usage) -> float:
        prompt, completion = self._prices
        return usage.prompt_tokens * prompt + usage.completion_tokens * completion

    def _catch_up(self) -> None:
        """Read what was written since: by a killed process, or by another one of the same stage."""
        if self._path is None or not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            try:
                key, prompt, completion = json.loads(line)
                usage = Usage(int(prompt), int(completion))
            except (ValueError, TypeError):
                continue  # torn by a kill; its reply is in the cache
            if str(key) not in self._keys:
                self._count(str(key), usage)

    @staticmethod
    def _append(path: Path, key: str, usage: Usage) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps([key, usage.prompt_tokens, usage.completion_tokens]) + "\n"
        with path.open("ab") as file:
            # A torn line of a killed process must not swallow this one.
            if file.tell() and not _ends_with_newline(path):
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
