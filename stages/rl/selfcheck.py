"""Does our way of computing log-probabilities and gradients fit this model? Asked once, when a model is opened.

A prompt with two answers is scored as a prefix-tree row through our LM head, and again as two plain sequences through the
model's own forward pass; log-probabilities and the gradients of a weighted sum of them are compared. They differ for models
whose logits are not a plain product with the LM head (soft-capping, scaling, a bias) or whose attention the tree rows do not
describe (sliding windows, recurrent layers): training those would be silently wrong.

Compared is the relative L2 distance: 1e-5 in float32, 5e-2 in bfloat16. Gradients of some models are rounded by more than that in
bfloat16: those of the first layer of SmolLM2-135M are 8.5e-2 away from float32's, and of the same model after a warm-up on the
memory agent's turns rows and plain sequences were 0.6 away from each other, at log-probabilities that agreed within 7e-3. So where gradients
differ by more, both are compared with float32's, and rows may be one and a half times as far away as plain sequences (measured: 0.97
to 1.3 times), in the first layer and in the last; log-probabilities may not.
On the tree path the prompt is long enough for a trunk (tree_layout.py), so that every kernel that training uses takes part.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.rl.attention import AttentionPath, attending, tree_inputs
from stages.rl.head import token_logprobs_and_entropy
from stages.rl.layer_checkpointing import layers_checkpointed
from stages.rl.packing import Branch, Tree, pack_trees
from stages.rl.tree_layout import MIN_TRUNK_TOKENS

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
ROUNDINGS = 1.5  # how much further than plain sequences the gradients of a row may be from those of float32
NOISE = 0.5  # plain gradients that are further from those of float32 deserve a warning
ANSWER_TOKENS = 4

logger = logging.getLogger(__name__)


def check_forward(model: Any, folder: Path, path: AttentionPath = "dense", exact: Any | None = None) -> None:
    """Raise InputError if prefix-tree log-probabilities or gradients of `model` are not those of its own forward pass.

    exact: the same model in float32, for one in 16 bits. A model with sharp attention, such as a trained one, may round its first
    layer's gradients by half their size whatever computes them; so rows are asked to come as near to the gradients of float32
    as plain sequences do, not as near to those of plain sequences as rounding usually leaves them.
    """
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
    with attending(model, path):
        ours_N = _shared(model, prompt, answers, path)
        ours = _gradients(model, ours_N)
    plain_N = _unshared(model, prompt, answers)
    plain = _gradients(model, plain_N)
    tolerance = TOLERANCE[model.dtype]
    logprobs = _Distance("log-probabilities", _relative_l2([ours_N], [plain_N]), tolerance)
    gradients = [
        _Distance(f"gradients of the {name} layer", _relative_l2(ours[name], plain[name]), tolerance) for name in ours
    ]
    if exact is not None and any(distance.too_far for distance in gradients):
        with layers_checkpointed(exact, enabled=True):
            right = _gradients(exact, _unshared(exact, prompt, answers))
        rounding = {name: _relative_l2(plain[name], right[name]) for name in right}
        gradients = [
            _Distance(
                f"gradients of the {name} layer",
                _relative_l2(ours[name], right[name]),
                max(tolerance, ROUNDINGS * noise),
            )
            for name, noise in rounding.items()
        ]
        logger.log(
            logging.WARNING if max(rounding.values()) > NOISE else logging.INFO,
            "gradients of the first layer of %s in %s are %.3g away from those in float32 (relative L2), those of prefix-tree "
            "rows %.3g; train.compute_dtype float32 would be exact",
            folder,
            str(model.dtype).removeprefix("torch."),
            rounding["first"],
            gradients[0].found,
        )
    if wrong := [distance for distance in (logprobs, *gradients) if distance.too_far]:
        told = "; ".join(f"{name} are {found:.3g} away ({allowed:.3g} is allowed)" for name, found, allowed in wrong)
        raise InputError(
            f"the model in {folder} ({model.config.model_type}) computes its logits or attention in a way that the trainer "
            f"does not reproduce. Prefix-tree rows against plain sequences, relative L2: {told}. Use a full-attention model "
            "with a plain LM head, such as Llama or Qwen3."
        )


class _Distance(NamedTuple):
    what: str
    found: float
    allowed: float

    @property
    def too_far(self) -> bool:
        return not self.found <= self.allowed  # NaN is too far


def _gradients(model: Any, logprobs_N: Tensor) -> dict[str, list[Tensor]]:
    """Of the first layer, which depend on all that stands above it, and of the last, which rounding has hardly reached."""
    layers = {"first": model.base_model.layers[0], "last": model.base_model.layers[-1]}
    watched = [
        (name, parameter)
        for name, layer in layers.items()
        for parameter in layer.parameters()
        if parameter.requires_grad
    ]
    weights_N = torch.linspace(-1.0, 1.5, len(logprobs_N), device=logprobs_N.device)
    found = torch.autograd.grad(
        (logprobs_N * weights_N).sum(), [parameter for _, parameter in watched], allow_unused=True
    )
    by_layer: dict[str, list[Tensor]] = {name: [] for name in layers}
    for (name, _), gradient in zip(watched, found, strict=True):
        if gradient is not None:
            by_layer[name].append(gradient)
    return by_layer


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
