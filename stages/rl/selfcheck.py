"""Does our way of computing log-probabilities and gradients fit this model? Asked once, when a model is opened.

A prompt with two answers is scored as a prefix-tree row through our LM head, and again as two plain sequences through the
model's own forward pass; log-probabilities and the gradients of a weighted sum of them are compared. They differ for models
whose logits are not a plain product with the LM head (soft-capping, scaling, a bias) or whose attention the tree rows do not
describe (sliding windows, recurrent layers): training those would be silently wrong.

Compared is the relative L2 distance: 1e-5 in float32, 5e-2 in bfloat16. Gradients of some models are rounded by more than that
in bfloat16 (SmolLM2-135M: 5.5e-2 between its own forward pass in bfloat16 and in float32), so gradients may also differ by three
times what the plain sequences differ by when only the kernels change, at most by 0.25; log-probabilities may not. On the tree path the prompt is
long enough for a trunk (tree_layout.py), so that every kernel that training uses takes part.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.common.errors import InputError
from stages.rl.attention import AttentionPath, attending, tree_inputs
from stages.rl.head import token_logprobs_and_entropy
from stages.rl.packing import Branch, Tree, pack_trees
from stages.rl.tree_layout import MIN_TRUNK_TOKENS

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
ROUNDINGS, MOST_ROUNDING = 3, 0.25
ANSWER_TOKENS = 4

logger = logging.getLogger(__name__)


def check_forward(model: Any, folder: Path, path: AttentionPath = "dense") -> None:
    """Raise InputError if prefix-tree log-probabilities or gradients of `model` are not those of its own forward pass."""
    if kinds := _windowed_layers(model.config):
        raise InputError(
            f"the model in {folder} has layers that are not full attention ({kinds}); the trainer's tree mask does not "
            "describe them. Use a full-attention model such as Llama or Qwen3."
        )
    if model.get_output_embeddings() is None:
        raise InputError(f"the model in {folder} has no LM head. Use a causal language model.")
    vocabulary = model.config.vocab_size
    length = 12 if path == "dense" else MIN_TRUNK_TOKENS + 37
    prompt = tuple((7 * i + 3) % vocabulary for i in range(length))
    answers = [tuple((11 * i + 5 * member + 1) % vocabulary for i in range(ANSWER_TOKENS)) for member in range(2)]
    weights_N = torch.linspace(-1.0, 1.5, 2 * ANSWER_TOKENS, device=model.device)
    # Gradients of the first layer depend on all that stands above it.
    watched = [parameter for parameter in model.base_model.layers[0].parameters() if parameter.requires_grad]

    def gradients(logprobs_N: Tensor) -> list[Tensor]:
        found = torch.autograd.grad((logprobs_N * weights_N).sum(), watched, allow_unused=True)
        return [gradient for gradient in found if gradient is not None]

    with attending(model, path):
        ours_N = _shared(model, prompt, answers, path)
        our_gradients = gradients(ours_N)
    plain_N = _unshared(model, prompt, answers)
    plain_gradients = gradients(plain_N)
    tolerance = TOLERANCE[model.dtype]
    logprob_difference = _relative_l2([ours_N], [plain_N])
    gradient_difference = _relative_l2(our_gradients, plain_gradients)
    gradient_tolerance = tolerance
    if gradient_difference > tolerance and model.dtype != torch.float32:
        with sdpa_kernel(SDPBackend.MATH):
            rounded_otherwise = gradients(_unshared(model, prompt, answers))
        rounding = _relative_l2(rounded_otherwise, plain_gradients)
        gradient_tolerance = min(MOST_ROUNDING, max(tolerance, ROUNDINGS * rounding))
        logger.info(
            "Gradients of prefix-tree rows are %.3g away from those of plain sequences; %.3g is allowed, since %s rounds that much",
            gradient_difference,
            gradient_tolerance,
            folder,
        )
    if not (logprob_difference <= tolerance and gradient_difference <= gradient_tolerance):
        raise InputError(
            f"the model in {folder} ({model.config.model_type}) computes its logits or attention in a way that the "
            f"trainer does not reproduce: log-probabilities of prefix-tree rows are {logprob_difference:.3g} away from those "
            f"of plain sequences (relative L2; {tolerance:g} is allowed), gradients {gradient_difference:.3g} "
            f"({gradient_tolerance:.3g} is allowed). Use a full-attention model with a plain LM head, such as Llama or Qwen3."
        )


def _shared(model: Any, prompt: tuple[int, ...], answers: Sequence[tuple[int, ...]], path: AttentionPath) -> Tensor:
    """Log-probabilities [N] of the answers from one prefix-tree row."""
    tree = Tree(prompt, tuple(Branch(answer, member, 0) for member, answer in enumerate(answers)))
    (row,) = pack_trees([tree], max_tokens=tree.num_tokens)
    hidden_TH = model.base_model(**tree_inputs(row, model.device, path), use_cache=False).last_hidden_state[0]
    hidden_NH = hidden_TH[row.hidden_index_N.to(model.device)]
    head_VH = model.get_output_embeddings().weight
    return token_logprobs_and_entropy(hidden_NH, head_VH, row.target_N.to(model.device), 1.0, 64)[0]


def _unshared(model: Any, prompt: tuple[int, ...], answers: Sequence[tuple[int, ...]]) -> Tensor:
    """The same from plain sequences through the model's own forward pass."""
    logprobs = []
    for answer in answers:
        ids = torch.tensor([prompt + answer], device=model.device)
        logits_TV = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1].float()
        logprobs.append(logits_TV.log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0])
    return torch.cat(logprobs)


def _relative_l2(ours: Sequence[Tensor], plain: Sequence[Tensor]) -> float:
    one, two = (torch.cat([tensor.detach().double().flatten() for tensor in side]) for side in (ours, plain))
    return float((one - two).norm() / two.norm())


def _windowed_layers(config: Any) -> str:
    """Kinds of layers that see less than the whole sequence; empty if there are none."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    window = getattr(config, "sliding_window", None)
    if not kinds and window and getattr(config, "use_sliding_window", True):
        kinds = [f"sliding_window {window}"]
    return ", ".join(kinds)
