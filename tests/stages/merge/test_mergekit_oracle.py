"""Equal to mergekit 0.1.5: files that it made in its own environment (tests/fixtures/mergekit/generate.py says how)."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from stages.merge import sce
from stages.merge.merge import merge_checkpoints
from stages.merge.sce import sce_merge, sce_merge_with_report

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "mergekit"
CHECKPOINT = FIXTURES / "checkpoint"
TENSORS = FIXTURES / "tensors.safetensors"
with safe_open(TENSORS, framework="pt") as _file:
    # Sorted: the metadata come in another order in every process, and the workers must see the same tests.
    CASES = {key: float(value) for key, value in sorted(_file.metadata().items()) if key not in ("mergekit", "torch")}


def tensors_of(case):
    tensors = load_file(TENSORS)
    experts = [tensors[key] for key in sorted(tensors) if key.startswith(f"{case}.expert")]
    return tensors[f"{case}.base"], experts, tensors[f"{case}.sce"]


@pytest.mark.parametrize("case", CASES)
def test_reference_weighting_gives_mergekits_bits_on_random_tensors(case):
    base, experts, theirs = tensors_of(case)
    ours = sce_merge(base, experts, CASES[case], weighting="reference")
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, base)


@pytest.mark.parametrize("case", [case for case, topk in CASES.items() if topk == 1.0 and case not in ("one",)])
def test_weights_from_streamed_sums_are_at_most_two_units_off(case):
    """Tensors above sce.WHOLE elements: float64 sums in place of mergekit's float32 ones.

    Units in the last place of the largest number that goes into an element: near zero, by cancellation, any float is far.
    """
    base, experts, theirs = tensors_of(case)
    out = torch.empty(base.numel())

    def write(start, values):
        out[start : start + len(values)] = values

    source = sce.MemoryTensors(base, experts)
    sce.sce_blocks(source, len(experts), 1.0, "reference", write, whole=0)
    largest = torch.stack([base, *experts]).abs().amax(dim=0)
    assert bool(((out.reshape(base.shape) - theirs).abs() <= 2 * torch.finfo(torch.float32).eps * largest).all())


@pytest.mark.parametrize("case", ["two", "three", "four"])
def test_scale_free_agrees_where_the_threshold_plays_no_part(case):
    base, experts, theirs = tensors_of(case)
    torch.testing.assert_close(sce_merge(base, experts), theirs, rtol=0, atol=1e-6)


def test_scale_free_keeps_the_weights_that_the_threshold_makes_uniform():
    base, experts, _ = tensors_of("tiny_differences")
    _, reference = sce_merge_with_report(base, experts, weighting="reference")
    _, ours = sce_merge_with_report(base, experts)
    assert reference.weights == (0.5, 0.5)
    squares = [float(((expert.double() - base.double()) ** 2).mean()) for expert in experts]
    assert ours.weights == pytest.approx([square / sum(squares) for square in squares])
    assert ours.weights[1] > 0.75  # the second expert moved twice as far: four times the mean square


@pytest.mark.parametrize(("method", "topk"), [("sce", 1.0), ("sce_topk", 0.35)])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 8000])
def test_a_checkpoint_of_two_experts_equals_mergekits(tmp_path, method, topk, max_shard_bytes):
    experts = [CHECKPOINT / "a", CHECKPOINT / "b"]
    merge_checkpoints(
        CHECKPOINT / "base", experts, tmp_path / "out",
        select_topk=topk, weighting="reference", max_shard_bytes=max_shard_bytes,
    )  # fmt: skip
    ours = {name: value for path in (tmp_path / "out").glob("*.safetensors") for name, value in load_file(path).items()}
    theirs = load_file(CHECKPOINT / f"{method}.safetensors")
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(("method", "weights"), [("linear", (0.3, 0.7)), ("task_arithmetic", (0.6, 0.5))])
def test_linear_and_task_arithmetic_are_within_rounding_of_mergekits(tmp_path, method, weights):
    experts = [CHECKPOINT / "a", CHECKPOINT / "b"]
    merge_checkpoints(CHECKPOINT / "base", experts, tmp_path / "out", method=method, weights=weights)
    theirs = load_file(CHECKPOINT / f"{method}.safetensors")
    for name, value in load_file(tmp_path / "out" / "model.safetensors").items():
        # Ours is rounded once, theirs after every operation: two roundings of a sum of numbers below 0.2.
        torch.testing.assert_close(value, theirs[name], rtol=2e-7, atol=3e-8)
