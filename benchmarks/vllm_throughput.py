"""What VLLMEngine's request thread costs: N concurrent coroutines against the same requests put straight into vLLM.

    python benchmarks/vllm_throughput.py [--model FOLDER] [--requests 64] [--prompt-tokens 128] [--output-tokens 128]

One engine, one process, order A-B-B-A (repeated), prefix cache emptied before each run. "direct": all requests are added
to vLLM's own engine and it is stepped until they are done. "engine": each request is a coroutine of its own. Without
--model a small random Qwen3 in float32 is made, which a CPU can run; then the share of overhead is at its largest.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.common.rollouts import GenerationRequest
from stages.engines.vllm_engine import VLLMEngine


def make_model(folder: Path) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from stages.base_model.random_model import make_tokenizer
    from stages.base_model.saving import save_model

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=2_000,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        eos_token_id=2,
        pad_token_id=0,
    )
    save_model(Qwen3ForCausalLM(config).eval(), make_tokenizer(), folder)


def direct(engine: VLLMEngine, requests: list[GenerationRequest]) -> int:
    """Tokens generated; runs in the engine's thread, as vLLM wants one thread."""
    backend = engine._backend
    for number, request in enumerate(requests):
        backend.add(f"direct-{number}", request)
    tokens = 0
    while backend._engine.has_unfinished_requests():
        tokens += sum(len(answer.token_ids) for _, answers in backend.step() for answer in answers)
    return tokens


def through_engine(engine: VLLMEngine, requests: list[GenerationRequest]) -> int:
    async def ask() -> int:
        answers = await asyncio.gather(*(engine.generate(request) for request in requests))
        return sum(len(answer.token_ids) for completions in answers for answer in completions)

    return asyncio.run(ask())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="times A-B-B-A")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or Path(scratch)
        if options.model is None:
            make_model(model)
        engine = VLLMEngine(
            model,
            compute_dtype="float32" if options.model is None else "bfloat16",
            max_model_tokens=options.prompt_tokens + options.output_tokens,
        )
        engine._backend._end_ids = []  # every answer has its full length
        requests = [
            GenerationRequest(
                prompt_ids=tuple(3 + (17 * i + j) % 1_900 for j in range(options.prompt_tokens)),
                max_tokens=options.output_tokens,
                temperature=1.0,
                seed=i,
            )
            for i in range(options.requests)
        ]
        rates: dict[str, list[float]] = {"direct": [], "engine": []}
        for way in ["direct", "engine", *["direct", "engine", "engine", "direct"] * options.rounds]:
            engine._thread.call("emptying", engine._backend._engine.reset_prefix_cache)
            started = time.perf_counter()
            if way == "direct":
                tokens = engine._thread.call("direct", lambda: direct(engine, requests))
            else:
                tokens = through_engine(engine, requests)
            rates[way].append(tokens / (time.perf_counter() - started))
        engine.close()
    for way, values in rates.items():
        kept = values[1:]  # the first compiles
        print(
            f"{way:8} {statistics.median(kept):9.0f} tokens/s, median of {len(kept)} ({min(kept):.0f} .. {max(kept):.0f})"
        )
    print(f"engine / direct = {statistics.median(rates['engine'][1:]) / statistics.median(rates['direct'][1:]):.3f}")


if __name__ == "__main__":
    main()
