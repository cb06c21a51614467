"""Weights from a trainer's GPU to a vLLM server's GPUs: names over HTTP, tensors over NCCL, nothing over a disk.

The protocol is that of vLLM's weight transfer (`--weight-transfer-config '{"backend": "nccl"}'`), one tensor at a time,
which is the same in all supported versions. The trainer is process 0 of an NCCL group of its own; the server's workers
follow. Names, types and shapes of a bucket are told before its tensors, so a generator that gathers sharded weights is
read once.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stages.common.errors import EnvironmentFailureError, InputError

if TYPE_CHECKING:
    import torch

Post = Callable[[str, "dict[str, Any] | None"], dict[str, Any]]

_BUCKET_BYTES = 1 << 30


class WeightPusher:
    """Pushes to one server. post: a call to it, made once.

    Raises InputError without a CUDA device or without vLLM in this process.
    """

    def __init__(self, url: str, post: Post, timeout_seconds: float) -> None:
        self._url = url
        self._post = post
        self._timeout_seconds = timeout_seconds
        self._group: Any = None

    def push(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Send all weights. Every process of the trainer calls this; process 0 sends, all leave together."""
        import torch
        import torch.distributed as dist

        together = dist.is_initialized() and dist.get_world_size() > 1
        if together and dist.get_rank() > 0:
            for _ in named_tensors:  # takes part in gathering
                pass
        else:
            if not torch.cuda.is_available():
                raise InputError(
                    "weights are pushed to a remote engine over NCCL, and this process has no CUDA device. Train with "
                    "train.engine.kind vllm or transformers; a remote engine can evaluate the folder that it serves."
                )
            device = torch.cuda.current_device()
            if self._group is None:
                self._group = self._bounded("joining the server's weight transfer", partial(self._join, device))
            self._post("/pause?mode=wait", None)
            self._post("/start_weight_update", None)
            for bucket in buckets(named_tensors, _BUCKET_BYTES):
                self._bounded("pushing weights", partial(self._send, bucket))
            self._post("/finish_weight_update", None)
            self._post("/reset_prefix_cache", None)
            self._post("/resume", None)
        if together:
            dist.barrier()

    def _join(self, device: int) -> Any:
        import torch

        torch.cuda.set_device(device)  # a thread's own setting
        try:
            from vllm.distributed.weight_transfer.nccl_common import trainer_init
        except ImportError:
            raise InputError(
                "pushing weights to a remote engine needs vLLM in the trainer's environment too: pip install it there."
            ) from None
        world = int(self._world_size())
        rendezvous = {"master_address": own_address(self._url), "master_port": free_port(), "world_size": world + 1}
        answer = _in_thread(
            lambda: self._post("/init_weight_transfer_engine", {"init_info": {**rendezvous, "rank_offset": 1}})
        )
        group = trainer_init(rendezvous)
        answer.result()
        return group

    def _world_size(self) -> int:
        import httpx

        answer = httpx.get(f"{self._url}/get_world_size", timeout=self._timeout_seconds)
        return int(answer.raise_for_status().json()["world_size"])

    def _send(self, bucket: list[tuple[str, torch.Tensor]]) -> None:
        import torch

        info = {
            "names": [name for name, _ in bucket],
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in bucket],
            "shapes": [list(tensor.shape) for _, tensor in bucket],
        }
        torch.cuda.set_device(bucket[0][1].device)  # a thread's own setting
        answer = _in_thread(lambda: self._post("/update_weights", {"update_info": info}))
        for _, tensor in bucket:
            self._group.broadcast(tensor, src=0, stream=torch.cuda.current_stream())
        answer.result()
        torch.cuda.synchronize()  # the bucket's memory may go

    def _bounded(self, phase: str, work: Callable[[], Any]) -> Any:
        future = _in_thread(work)
        wait([future], timeout=self._timeout_seconds)
        if not future.done():
            raise EnvironmentFailureError(
                f"the engine at {self._url} has not come back for {self._timeout_seconds:g} s while {phase}. Restart the "
                "server, then run the stage again: it continues from its last checkpoint."
            )
        return future.result()


def buckets(
    named_tensors: Iterable[tuple[str, torch.Tensor]], most_bytes: int
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Own, contiguous copies on the current GPU, in lists of at most `most_bytes` (or one tensor)."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    current: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in named_tensors:
        if current and size + tensor.nbytes > most_bytes:
            yield current
            current, size = [], 0
        current.append((name, tensor.detach().to(device, copy=True).contiguous()))
        size += tensor.nbytes
    if current:
        yield current


def own_address(url: str) -> str:
    """This machine's address on the way to a server."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname or "localhost", parts.port or 80))
        return str(probe.getsockname()[0])


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Run in a daemon thread, so that one that hangs does not keep the process alive."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  handed to who waits
            future.set_exception(error)

    threading.Thread(target=run, name="weight-push", daemon=True).start()
    return future
