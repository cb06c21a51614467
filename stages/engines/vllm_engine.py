"""Generation with vLLM in the trainer's own process: the engine for GPUs. Everything that depends on vLLM's version is here.

Differs from vLLM's own `LLM` class: requests join a running batch (stepping.py), so 64 memory trajectories need no
barrier per turn; weights go from the trainer's tensors into the engine's, with no disk, no second process and no call
per parameter between them; log-probabilities are those of temperature 1 over the whole vocabulary.

One GPU: an engine of its own. Under torchrun: vLLM's external launcher in the trainer's process group.

A group is one request with n samples: its prompt is computed once (prefix caching). Seeds are per sample, so samples
differ and can be repeated; the last bits of a GPU's logits depend on the batch, so the same bits are not promised.
"""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.errors import EnvironmentFailureError, InputError
from stages.common.rollouts import Completion, FinishReason, GenerationRequest
from stages.common.seeds import derive_seed
from stages.common.tokens import ChatTokenizer
from stages.engines.lockstep import GlooPeers
from stages.engines.requests import check_request, end_ids
from stages.engines.stepping import Peers, SteppingThread
from stages.engines.vllm_reload import has_experts, reload_weights
from stages.engines.vllm_version import check_version, installed_version

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class VLLMEngine:
    """Implements RolloutEngine.

    model_dir: folder with safetensors, config and tokenizer.
    compute_dtype: "bfloat16" or "float32".
    max_model_tokens: longest prompt plus answer; None: the model's own limit, or what the KV cache can hold of it.
    gpu_memory_utilization: share of the GPU's memory that vLLM may use (on CPU: of the machine's memory, unless
        VLLM_CPU_KVCACHE_SPACE is set); the trainer needs the rest.
    tensor_parallel_size: GPUs that share one copy of the model; all must run in one torchrun process group.
    max_num_batched_tokens: tokens of prompts computed in one step; None: vLLM's choice.
    sleep_level: 2 discards the weights while asleep (they must then come by load_weights), 1 keeps them in CPU memory,
        0 frees nothing: fastest where the card holds engine and trainer at once.
    timeout_seconds: longest start, step, sleep or load before the engine counts as hung.

    Raises InputError for a missing or unsupported vLLM and for a model that it refuses; EnvironmentFailureError if the
    engine dies, hangs or finds too little memory.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        compute_dtype: str = "bfloat16",
        max_model_tokens: int | None = None,
        gpu_memory_utilization: float = 0.5,
        tensor_parallel_size: int = 1,
        max_num_batched_tokens: int | None = None,
        enforce_eager: bool = False,
        seed: int = 0,
        tokenizer: ChatTokenizer | None = None,
        sleep_level: int = 2,
        timeout_seconds: float = 600.0,
    ) -> None:
        check_version(installed_version())
        self.tokenizer = tokenizer if tokenizer is not None else ChatTokenizer(model_dir)
        arguments = {
            "model": str(model_dir),
            "dtype": compute_dtype,
            "max_model_len": max_model_tokens or -1,  # -1: the model's own limit, or what its KV cache can hold
            "gpu_memory_utilization": gpu_memory_utilization,
            "tensor_parallel_size": tensor_parallel_size,
            "enforce_eager": enforce_eager,
            "max_num_batched_tokens": max_num_batched_tokens,
            "seed": seed % 2**31,
        }
        ends = end_ids(model_dir, self.tokenizer)
        backends: list[_Backend] = []

        def start() -> _Backend:
            backends.append(_Backend(arguments, ends, sleep_level))
            return backends[0]

        self._thread = SteppingThread("vLLM", start, timeout_seconds)
        self._backend = backends[0]
        self.max_model_tokens: int = self._backend.max_model_tokens
        self._asleep = False

    async def generate(self, request: GenerationRequest) -> list[Completion]:
        """Return `request.n` completions; the request joins the batch that is running.

        Raises InputError if prompt plus max_tokens exceeds max_model_tokens.
        """
        self._check(request)
        return await self._thread.answer(request)

    def generate_all(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """Generate for all requests, results in order. Raises InputError before any work if one is too long."""
        for request in requests:
            self._check(request)
        return self._thread.wait_all([self._thread.submit(request) for request in requests])

    def _check(self, request: GenerationRequest) -> None:
        assert not self._asleep, "generate after sleep: call wake_up first"
        assert not self._backend.weights_lost, (
            "generate after a sleep that dropped the weights: call load_weights first"
        )
        check_request(request, self.max_model_tokens)

    def sleep(self) -> None:
        """Free the KV cache and the weights (nothing on CPU). No request may be running."""
        assert not self._thread.running, "sleep while requests are running"
        self._asleep = True
        self._thread.call("going to sleep", self._backend.sleep)

    def wake_up(self) -> None:
        """Bring back what `sleep` freed."""
        self._thread.call("waking up", self._backend.wake_up)
        self._asleep = False

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy new weights into the engine, device to device, and forget cached prefixes. Works asleep and awake.

        Asleep, only the weights' memory is taken back; `wake_up` then adds the KV cache. Raises InputError for names or
        shapes that do not fit the model, or if parameters are missing.
        """
        assert not self._thread.running, "load_weights while requests are running"
        self._thread.call("loading weights", lambda: self._backend.load_weights(named_tensors))

    def close(self) -> None:
        """Free everything; the engine cannot be used afterwards."""
        try:
            self._thread.call("closing", self._backend.close)
        except EnvironmentFailureError as error:
            logger.warning("closing: %s", error)
        self._thread.close()


class _Backend:
    """vLLM's in-process engine. Lives in the stepping thread."""

    def __init__(self, arguments: dict[str, Any], ends: Sequence[int], sleep_level: int) -> None:
        # vLLM reads its switches from the environment: the model must live in this process to take weights directly.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import torch
        from vllm import EngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.v1.executor import Executor

        logging.getLogger("vllm").setLevel(logging.ERROR)
        self._end_ids = list(ends)
        self._sleep_level = sleep_level
        self._can_sleep = current_platform.is_cuda_alike() and sleep_level > 0
        self._on_cpu = current_platform.is_cpu()
        self._unmapped: set[str] = set()  # of "weights" and "kv_cache": what sleep has freed
        self.weights_lost = False
        self._group_is_ours = not torch.distributed.is_initialized()
        world = 1 if self._group_is_ours else torch.distributed.get_world_size()
        tensor_parallel_size = arguments["tensor_parallel_size"]
        # Alone, vLLM starts the other processes itself; they read the weights from the folder and take no others.
        self._has_own_processes = world == 1 and tensor_parallel_size > 1
        if world % tensor_parallel_size and not self._has_own_processes:
            raise InputError(
                f"tensor_parallel_size = {tensor_parallel_size} does not divide the {world} processes of this run. "
                "Start the stage with a multiple of that many processes, or lower train.engine.tensor_parallel_size."
            )
        executor = "mp" if self._has_own_processes else "external_launcher" if world > 1 else "uni"
        try:
            with _global_random_state():
                # Graphs compiled on CPU hold the weights that they were compiled with.
                arguments["enforce_eager"] = arguments["enforce_eager"] or self._on_cpu
                engine_arguments = EngineArgs(
                    **arguments,
                    distributed_executor_backend=executor,
                    enable_prefix_caching=True,
                    # On CPU vLLM cannot put a request's generator back, which a prompt computed in parts needs.
                    enable_chunked_prefill=False if self._on_cpu else None,
                    enable_sleep_mode=self._can_sleep,
                    logprobs_mode="raw_logprobs",
                    generation_config="vllm",  # no sampling defaults from the model's folder
                    disable_log_stats=True,
                    trust_remote_code=False,
                )
                config = engine_arguments.create_engine_config(UsageContext.LLM_CLASS)
                self._engine: Any = LLMEngine(
                    vllm_config=config,
                    executor_class=Executor.get_class(config),
                    log_stats=False,
                    usage_context=UsageContext.LLM_CLASS,
                    multiprocess_mode=False,
                )
        except (torch.OutOfMemoryError, ValueError, RuntimeError) as error:
            raise _start_error(error, arguments) from error
        self.max_model_tokens = int(self._engine.model_config.max_model_len)
        self.peers: Peers | None = None
        if tensor_parallel_size > 1 and not self._has_own_processes:
            from vllm.distributed.parallel_state import get_tp_group

            self.peers = GlooPeers(get_tp_group().cpu_group)

    def add(self, request_id: str, request: GenerationRequest) -> None:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        greedy_by_rank = self._on_cpu and request.temperature == 0
        parameters = SamplingParams(
            n=request.n,
            # On CPU one request without a seed makes vLLM ignore the seeds of all: greedy is sampling of the best there.
            temperature=1.0 if greedy_by_rank else request.temperature,
            top_p=1.0 if greedy_by_rank else request.top_p,
            top_k=1 if greedy_by_rank else 0,
            max_tokens=request.max_tokens,
            # vLLM gives sample i the seed + i; hashed, so that neighbouring request seeds share no sample.
            seed=derive_seed(request.seed, "vllm") % 2**62,
            stop=list(request.stop),
            detokenize=bool(request.stop),
            ignore_eos=True,  # the ends are those listed here, the same for every engine
            stop_token_ids=self._end_ids,
            logprobs=0,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=list(request.prompt_ids))
        try:
            self._engine.add_request(request_id, prompt, parameters)
        except ValueError as error:
            raise InputError(f"vLLM refuses the request: {error}") from error

    def abort(self, request_ids: Sequence[str]) -> None:
        self._engine.abort_request(list(request_ids))

    def step(self) -> list[tuple[str, list[Completion]]]:
        return [
            (output.request_id, [_completion(answer) for answer in output.outputs])
            for output in self._engine.step()
            if output.finished
        ]

    def describe(self, error: BaseException) -> str:
        import torch

        text = f"{type(error).__name__}: {error}"
        if isinstance(error, torch.OutOfMemoryError):
            text += " Lower train.engine.gpu_memory_utilization or train.engine.max_num_batched_tokens."
        return text

    def sleep(self) -> None:
        if self._unmapped:
            return
        if not self._can_sleep:
            self._engine.reset_prefix_cache()
            return
        self._engine.sleep(level=self._sleep_level)
        self._unmapped = {"weights", "kv_cache"}
        self.weights_lost = self._sleep_level == 2

    def wake_up(self) -> None:
        self._wake("weights")
        self._wake("kv_cache")

    def _wake(self, part: str) -> None:
        """Map the memory of "weights" or "kv_cache" again."""
        if part not in self._unmapped:
            return
        import torch

        gc.collect()
        torch.cuda.empty_cache()  # what the trainer's allocator holds unused is not free for vLLM
        self._engine.wake_up(tags=[part])
        self._unmapped.discard(part)

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        import torch

        if self._has_own_processes:
            raise InputError(
                "tensor_parallel_size is over 1 in a run of one process, so vLLM's model lives in processes of its own and "
                "takes no weights. Train with train.distributed.backend deepspeed, or set tensor_parallel_size to 1."
            )
        self._wake("weights")
        with torch.no_grad():
            worker = self._engine.model_executor.driver_worker.worker
            model = worker.model_runner.get_model()
            try:
                if self._on_cpu or has_experts(model):
                    # Kernels hold these weights in a layout of their own: load, convert, copy, layer by layer.
                    dtype = worker.model_config.dtype
                    copies = ((name, tensor.to(dtype, copy=True)) for name, tensor in named_tensors)
                    loaded = reload_weights(worker.model_runner, copies)
                else:
                    loaded = model.load_weights(named_tensors)
            except (KeyError, ValueError, AssertionError, RuntimeError) as error:
                raise InputError(
                    f"the weights do not fit the engine's model: {error}. Load weights of the same architecture."
                ) from error
        # The names that some loaders report leave out the module that now holds the experts.
        given = {name.replace(".routed_experts.", ".") for name in loaded or ()}
        named = {name.replace(".routed_experts.", ".") for name, _ in model.named_parameters()}
        missing = named - given if loaded is not None else set()
        if missing:
            raise InputError(f"weights lack {len(missing)} parameters, the first is {min(missing)}. Give all of them.")
        self.weights_lost = False
        if not self._engine.reset_prefix_cache():
            raise EnvironmentFailureError("vLLM did not forget its cached prefixes after a change of weights.")

    def close(self) -> None:
        import torch
        from vllm.distributed import parallel_state

        core = self._engine.engine_core.engine_core
        if self._group_is_ours:
            core.shutdown()
        else:  # its shutdown would also end the trainer's process group
            core.model_executor.shutdown()
            core.scheduler.shutdown()
            gc.unfreeze()
            parallel_state.destroy_model_parallel()
            parallel_state.get_world_group().destroy()
            parallel_state._WORLD = None
        del self._engine, core
        gc.collect()
        if self._can_sleep:
            torch.cuda.empty_cache()


def _completion(answer: Any) -> Completion:
    """From vLLM's CompletionOutput to ours."""
    reason: FinishReason = "length" if answer.finish_reason == "length" else "stop"
    if answer.finish_reason not in ("length", "stop"):
        raise EnvironmentFailureError(f"vLLM ended a request with {answer.finish_reason!r}.")
    token_ids = tuple(answer.token_ids)
    logprobs = tuple(answer.logprobs.logprobs)
    assert tuple(answer.logprobs.token_ids) == token_ids, "one log-probability per token, of that token"
    return Completion(token_ids, logprobs, reason)


@contextmanager
def _global_random_state() -> Iterator[None]:
    """Put the global generators back, which vLLM seeds when it starts."""
    import numpy
    import torch

    python_state, numpy_state = random.getstate(), numpy.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        yield
    random.setstate(python_state)
    numpy.random.set_state(numpy_state)  # noqa: NPY002


def _start_error(error: Exception, arguments: dict[str, Any]) -> Exception:
    """What a failed start means, with the knob to turn."""
    text = str(error)
    share = arguments["gpu_memory_utilization"]
    if "memory" in text.lower() or "cache blocks" in text.lower():
        return EnvironmentFailureError(
            f"vLLM finds too little memory with gpu_memory_utilization {share}: {text} If the memory is taken by "
            "the trainer or another process, lower train.engine.gpu_memory_utilization; if the KV cache of one request "
            "does not fit, raise it, shorten the longest request, or raise train.engine.tensor_parallel_size."
        )
    return InputError(f"vLLM refuses the model in {arguments['model']}: {text}")
