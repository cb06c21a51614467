"""Does our way of computing log-probabilities fit this model? Asked once, when a model is opened.

A prompt with two answers is scored as a prefix-tree row through our LM head, and again as two plain sequences through the
model's own forward pass. They differ for models whose logits are not a plain product with the LM head (soft-capping,
scaling, a bias) or whose attention the tree mask does not describe (sliding windows, recurrent layers): training those
would be silently wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stages.common.errors import InputError
from stages.rl.attention import tree_inputs
from stages.rl.head import token_logprobs_and_entropy
from stages.rl.packing import Branch, Tree, pack_trees

TOLERANCE_NATS = 1e-2  # float32 rounding is 1e-5; a wrong mask or head shows as 0.1 and more


def check_forward(model: Any, folder: Path) -> None:
    """Raise InputError if prefix-tree log-probabilities of `model` (float32) are not those of its own forward pass."""
    if kinds := _windowed_layers(model.config):
        raise InputError(
            f"the model in {folder} has layers that are not full attention ({kinds}); the trainer's tree mask does not "
            "describe them. Use a full-attention model such as Llama or Qwen3."
        )
    vocabulary = model.config.vocab_size
    prompt = tuple((7 * i + 3) % vocabulary for i in range(12))
    answers = tuple(tuple((11 * i + 5 * member + 1) % vocabulary for i in range(4)) for member in range(2))
    tree = Tree(prompt, tuple(Branch(answer, member, 0) for member, answer in enumerate(answers)))
    (row,) = pack_trees([tree], max_tokens=tree.num_tokens)
    head = model.get_output_embeddings()
    if head is None:
        raise InputError(f"the model in {folder} has no LM head. Use a causal language model.")
    with torch.no_grad():
        hidden_TH = model.base_model(**tree_inputs(row, model.device), use_cache=False).last_hidden_state[0]
        hidden_NH = hidden_TH[row.hidden_index_N.to(model.device)]
        ours_N, _ = token_logprobs_and_entropy(hidden_NH, head.weight, row.target_N.to(model.device), 1.0, 64)
        plain = []
        for answer in answers:
            ids = torch.tensor([prompt + answer], device=model.device)
            logprobs_TV = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(dim=-1)
            plain += [logprobs_TV[len(prompt) - 1 + place, token] for place, token in enumerate(answer)]
    difference = float((ours_N - torch.stack(plain)).abs().max())
    if not difference <= TOLERANCE_NATS:
        raise InputError(
            f"the model in {folder} ({model.config.model_type}) computes its logits or attention in a way that the "
            f"trainer does not reproduce (log-probabilities differ by {difference:.3g} nats). Use a full-attention "
            "model with a plain LM head, such as Llama or Qwen3."
        )


def _windowed_layers(config: Any) -> str:
    """Kinds of layers that see less than the whole sequence; empty if there are none."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    window = getattr(config, "sliding_window", None)
    if not kinds and window and getattr(config, "use_sliding_window", True):
        kinds = [f"sliding_window {window}"]
    return ", ".join(kinds)
