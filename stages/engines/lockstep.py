"""News between the processes that share one model, once per step, over gloo on the CPU.

A round without news costs one exchange of two numbers per process; requests travel as JSON (nothing is pickled), whose
floats come back as they went.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stages.common.rollouts import GenerationRequest
from stages.engines.stepping import News

if TYPE_CHECKING:
    import torch


class GlooPeers:
    """Implements Peers over a gloo process group. Raises RuntimeError (torch) if a process is gone."""

    def __init__(self, group: Any) -> None:
        import torch.distributed as dist

        self._group = group
        self._size: int = dist.get_world_size(group)
        self.rank: int = dist.get_rank(group)

    def exchange(self, news: News) -> list[News]:
        """The news of all processes, by rank."""
        import torch

        data = encode(news)
        lengths = [int(length) for length in self._gather(torch.tensor([len(data)]))]
        if not any(lengths):
            return [News()] * self._size
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        if data:
            padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        parts = self._gather(padded)
        return [decode(bytes(part[:length].tolist())) for part, length in zip(parts, lengths, strict=True)]

    def _gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        import torch
        import torch.distributed as dist

        parts = [torch.empty_like(tensor) for _ in range(self._size)]
        dist.all_gather(parts, tensor, group=self._group)
        return parts


def encode(news: News) -> bytes:
    """JSON; nothing for no news."""
    return b"" if news == News() else json.dumps(asdict(news)).encode()


def decode(data: bytes) -> News:
    """The inverse of `encode`."""
    if not data:
        return News()
    fields = json.loads(data)
    requests = tuple((name, _request(values)) for name, values in fields["requests"])
    return News(requests, tuple(fields["given_up"]), fields["call"], fields["closing"])


def _request(values: dict[str, Any]) -> GenerationRequest:
    lists = {"prompt_ids": tuple(values["prompt_ids"]), "stop": tuple(values["stop"])}
    return GenerationRequest(**(values | lists))
