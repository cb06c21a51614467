"""Forward and backward pass of one group: a prefix-tree row against the same answers one by one, on one CUDA device.

    python benchmarks/prefix_tree.py [--vocabulary 151936] [--out FILE]

Both sides: random weights of a Qwen3 shape of 0.6B (28 layers, d 1024, 16 heads over 8 key/value heads of 128, tied),
bfloat16 weights and gradients, activation checkpointing of every layer, our LM head on answer positions only; no optimizer.
One by one uses transformers' SDPA (cuDNN on Hopper), plain causal. TFLOP/s count the arithmetic that each side needs: linear
layers 2 FLOP per weight and token, attention 4 FLOP per visible pair and head dimension; forward twice (checkpointing),
backward twice forward.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from stages.rl.attention import attending, tree_inputs
from stages.rl.head import token_logprobs_and_entropy
from stages.rl.layer_checkpointing import layers_checkpointed
from stages.rl.loss import policy_loss
from stages.rl.packing import Branch, PackedRow, Tree, pack_trees

CASES = [(8192, 512), (32768, 1024), (131072, 2048)]  # (prompt, answer) tokens
GROUP = 8


def make_model(vocabulary: int) -> Any:
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=262_144, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"}, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        return Qwen3ForCausalLM(config).to(torch.bfloat16).eval()


def backward(model: Any, row: PackedRow, path: str, tokens_per_group: int, advantages: torch.Tensor) -> float:
    """Gradients of Eq. 4's loss for the row's answers; returns the loss."""
    hidden_TH = model.base_model(**tree_inputs(row, torch.device("cuda"), path), use_cache=False).last_hidden_state[0]
    hidden_NH = hidden_TH[row.hidden_index_N.cuda()]
    logprobs_N, _ = token_logprobs_and_entropy(hidden_NH, model.lm_head.weight, row.target_N.cuda(), 1.0, 1024)
    ones = torch.ones(len(logprobs_N), 1, dtype=torch.bool, device="cuda")
    groups = torch.zeros(len(logprobs_N), dtype=torch.int64)
    advantage_N = advantages[row.rollout_index_N].cuda()
    output = policy_loss(logprobs_N[:, None], advantage_N, ones, groups, "group", None, {0: float(tokens_per_group)}, 1)
    output.loss.backward()
    return float(output.loss.detach())


def update(model: Any, rows: list[PackedRow], path: str, *, advantages: torch.Tensor, tokens_per_group: int) -> None:
    """Fill the gradients with those of all rows."""
    model.zero_grad(set_to_none=True)
    with attending(model, path), layers_checkpointed(model, enabled=True):
        for row in rows:
            backward(model, row, path, tokens_per_group, advantages)


def measure(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds and peak memory in GB of a run, after one that is not counted."""
    run()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() / 1e9


def tera_flop(model: Any, tokens: int, pairs: int, scored: int) -> float:
    config = model.config
    linear = sum(p.numel() for p in model.base_model.layers.parameters()) * 2 * tokens
    attention = 4 * pairs * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    head = 2 * scored * config.vocab_size * config.hidden_size
    return 4 * (linear + attention + head) / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--largest", type=int, default=131_072, help="leave out longer prompts")
    options = parser.parse_args()
    model = make_model(options.vocabulary)
    device = torch.cuda.get_device_name()
    print(
        f"{device}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, vocabulary {options.vocabulary}"
    )
    print("P        L     tree s  TFLOP/s  GB     one by one s  TFLOP/s  GB     ratio  gradient cosine  relative L2")
    results = []
    for prompt_tokens, answer_tokens in CASES:
        if prompt_tokens > options.largest:
            continue
        generator = torch.Generator().manual_seed(prompt_tokens)

        def draw(count: int, generator: torch.Generator = generator) -> tuple[int, ...]:
            return tuple(torch.randint(10, options.vocabulary, (count,), generator=generator).tolist())

        prompt = draw(prompt_tokens)
        branches = [Branch(draw(answer_tokens), member, 0) for member in range(GROUP)]
        advantages = torch.tensor([1.0, -1.0, 0.5, -0.5] * (GROUP // 4))
        tree_rows = pack_trees([Tree(prompt, tuple(branches))], 10**9)
        single_rows = [pack_trees([Tree(prompt, (branch,))], 10**9)[0] for branch in branches]

        scored = GROUP * answer_tokens
        run = partial(update, model, advantages=advantages, tokens_per_group=scored)
        tree_s, tree_gb = measure(partial(run, tree_rows, "tree"), 3)
        gradients = [p.grad.clone() for p in model.parameters()]
        row = {"prompt": prompt_tokens, "answer": answer_tokens, "tree_s": tree_s, "tree_gb": tree_gb}
        tokens = prompt_tokens + GROUP * (answer_tokens - 1)
        pairs = prompt_tokens**2 // 2 + GROUP * (answer_tokens * prompt_tokens + answer_tokens**2 // 2)
        row["tree_tflops"] = tera_flop(model, tokens, pairs, scored) / tree_s
        text = f"{prompt_tokens:<8} {answer_tokens:<5} {tree_s:<7.3f} {row['tree_tflops']:<8.0f} {tree_gb:<6.1f}"
        if prompt_tokens <= 32768:
            one_s, one_gb = measure(partial(run, single_rows, "dense"), 3)
            length = prompt_tokens + answer_tokens
            row |= {"one_by_one_s": one_s, "one_by_one_gb": one_gb, "ratio": one_s / tree_s}
            row["one_by_one_tflops"] = tera_flop(model, GROUP * length, GROUP * length**2 // 2, scored) / one_s
            ours = torch.cat([g.flatten() for g in gradients]).float()
            theirs = torch.cat([p.grad.flatten() for p in model.parameters()]).float()
            row["cosine"] = float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0))
            row["relative_l2"] = float((ours - theirs).norm() / theirs.norm())
            text += (
                f" {one_s:<13.3f} {row['one_by_one_tflops']:<8.0f} {one_gb:<6.1f} {row['ratio']:<6.2f}"
                f" {row['cosine']:<16.5f} {row['relative_l2']:.4f}"
            )
        print(text, flush=True)
        results.append(row)
    if options.out:
        options.out.write_text(
            json.dumps({"device": device, "torch": torch.__version__, "rows": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
