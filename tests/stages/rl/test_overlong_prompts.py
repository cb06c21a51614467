"""Prompts longer than a stage's window: left out and counted, or cut in the middle of their documents."""

import pytest

from stages.common.errors import InputError
from stages.common.prompts import answer_instruction
from stages.common.storage import DocumentStore
from stages.common.tokens import ChatTokenizer
from stages.common.truncation import CUT_MARK
from stages.engines.transformers_engine import TransformersEngine
from stages.rl.rollout import FullContextRolloutSource, fitting_samples, prompt_ids
from tests.stages.rl.tiny_world import make_samples, write_inputs, write_model_folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("overlong")
    write_inputs(root)
    folder = write_model_folder(root)
    return DocumentStore([root / "documents.jsonl"]), ChatTokenizer(folder), folder


def lengths(world) -> list[int]:
    documents, tokenizer, _ = world
    return [len(prompt_ids(sample, documents, tokenizer)) for sample in make_samples()[1]]


def test_dropped_prompts_are_counted(world):
    documents, tokenizer, _ = world
    samples = make_samples()[1]
    limit = sorted(lengths(world))[6]
    found = fitting_samples(samples, documents, tokenizer, limit, "drop")
    assert found.dropped == sum(length > limit for length in lengths(world)) > 0
    assert (len(found.samples), found.cut) == (15 - found.dropped, 0)
    assert found.longest_prompt_tokens == limit


def test_cut_prompts_keep_question_instruction_beginning_and_end(world):
    documents, tokenizer, _ = world
    samples = make_samples()[1]
    longest = max(lengths(world))
    limit = longest - 30
    found = fitting_samples(samples, documents, tokenizer, limit, "truncate_middle")
    assert (found.dropped, len(found.samples)) == (0, 15)
    assert found.cut == sum(length > limit for length in lengths(world)) > 0
    assert found.longest_prompt_tokens <= limit
    sample = samples[lengths(world).index(longest)]
    prompt = prompt_ids(sample, documents, tokenizer, limit)
    assert len(prompt) <= limit
    text = tokenizer.decode(prompt)
    assert CUT_MARK in text
    assert sample.question in text
    assert answer_instruction(sample) in text
    assert '<document title="' in text  # the beginning
    assert "</document>\n</documents>" in text  # the end
    assert tokenizer.decode(prompt_ids(sample, documents, tokenizer, longest)).count(CUT_MARK) == 0


def test_a_question_that_alone_is_too_long_is_dropped_also_when_cutting(world):
    documents, tokenizer, _ = world
    samples = make_samples()[1]
    found = fitting_samples(samples, documents, tokenizer, 100, "truncate_middle")
    assert (found.samples, found.dropped) == ([], 15)
    with pytest.raises(InputError, match=samples[0].id):
        prompt_ids(samples[0], documents, tokenizer, 100)


def test_rollouts_are_made_from_the_cut_prompt(world):
    documents, tokenizer, folder = world
    limit = min(lengths(world)) - 20
    source = FullContextRolloutSource(
        TransformersEngine(folder, compute_dtype="float32"), documents, max_output_tokens=2, group_size=2,
        temperature=1.0, top_p=1.0, seed=1, cut_to_tokens=limit,
    )  # fmt: skip
    (group,) = source(make_samples()[1][:1], step=0)
    (segment,) = group.rollouts[0].segments
    assert len(segment.prompt_ids) <= limit
    assert CUT_MARK in tokenizer.decode(segment.prompt_ids)
