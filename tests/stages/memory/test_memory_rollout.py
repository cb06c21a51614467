"""Trajectories for training: order, segments, rewards, shared batches, seeds."""

import pytest

from stages.common.errors import InputError
from stages.common.records import AnswerKind, Category, Document, Sample, Span, TaskType
from stages.common.storage import DocumentStore, write_jsonl
from stages.engines.scripted_engine import ScriptedEngine
from stages.memory.config import MemoryAgentConfig
from stages.memory.kept_splits import KeptSplits
from stages.memory.query import SplitQuery
from stages.memory.rollout import MemoryRolloutSource

LENGTHS = MemoryAgentConfig(
    chunk_tokens=64,
    memory_tokens=40,
    turn_tokens=80,
    answer_tokens=20,
    prompt_order="memory_first",
    split_question="rules",
)
TEXT = "The river Elbe flows to the city of Hamburg in the north.\nThe river Rhine flows to Rotterdam.\n"


def sample(name, end=None, answer="Hamburg"):
    end = len(TEXT) if end is None else end
    return Sample(
        id=name, task_type=TaskType.MULTI_HOP, question="Where does the Elbe go?", answer=answer,
        answer_kind=AnswerKind.TEXT, evidence=[], proof={"kind": "quote"}, generator="test", seed=1,
        context=[Span(document_id="general/rivers", start=0, end=end)] if end else [], context_tokens=end,
    )  # fmt: skip


@pytest.fixture
def documents(tmp_path):
    document = Document(
        id="general/rivers", category=Category.GENERAL, title="rivers", text=TEXT, source="rivers.md",
        format="markdown", tokens=len(TEXT),
    )  # fmt: skip
    write_jsonl(tmp_path / "documents.jsonl", [document])
    return DocumentStore([tmp_path / "documents.jsonl"])


def reader(prompt, request, index):
    """Keeps the first city it meets; the second of a group's first turns does not parse."""
    state = prompt.split("<user>\n")[-1]
    memory = state.split("<memory>")[1].split("</memory>")[0]
    if "<section" not in state:
        return memory
    if index == 1:
        return "no form"
    city = next((city for city in ("Hamburg", "Rotterdam") if city in state.split('<section number="')[1]), "")
    return f"<memory>{city if memory == '(nothing yet)' and city else memory}</memory><plan>p</plan>"


def source(documents, engine=None, **changes):
    options = {"group_size": 2, "temperature": 0.7, "top_p": 0.95, "seed": 5, **changes}
    return MemoryRolloutSource(engine or ScriptedEngine(reader), documents, LENGTHS, **options)


def test_groups_come_in_order_with_a_segment_per_chunk_and_the_answer(documents):
    # Heading and 94 characters in chunks of 64 bytes: three sections; the first sentence alone: two.
    groups = source(documents)([sample("a"), sample("b", end=58), sample("c", end=0)], step=3)
    assert [(group.sample_id, group.task_type, group.group_id) for group in groups] == [
        ("a", "multi_hop", 0),
        ("b", "multi_hop", 1),
        ("c", "multi_hop", 2),
    ]
    kinds = [[segment.kind for segment in group.rollouts[0].segments] for group in groups]
    assert [len(group.rollouts) for group in groups] == [2, 2, 2]
    assert kinds[0] == ["memory"] * (len(kinds[0]) - 1) + ["answer"]
    assert len(kinds[0]) > len(kinds[1]) > len(kinds[2]) == 1


def test_the_reward_is_that_of_the_final_answer(documents):
    (group,) = source(documents)([sample("a")], step=0)
    assert group.rollouts[0].reward == 1.0
    (group,) = source(documents)([sample("a", answer="Oslo")], step=0)
    assert [rollout.reward for rollout in group.rollouts] == [0.0, 0.0]


def test_counters_count_turns_and_failures_per_trajectory(documents):
    (group,) = source(documents)([sample("a")], step=0)
    turns = len(group.rollouts[0].segments) - 1
    assert group.rollouts[0].counters == {"turns": turns, "parse_failures": 0, "truncated_turns": 0, "memory_cuts": 0}
    assert group.rollouts[1].counters["parse_failures"] == 1


def test_segments_hold_what_was_asked_and_generated(documents):
    engine = ScriptedEngine(reader)
    (group,) = source(documents, engine)([sample("a")], step=0)
    decode = engine.tokenizer.decode
    first, *_, last = group.rollouts[0].segments
    assert "(nothing yet)" in decode(first.prompt_ids)
    assert decode(first.response_ids).startswith("<memory>")
    assert len(first.logprobs) == len(first.response_ids)
    assert "Answer with the name or phrase only." in decode(last.prompt_ids)
    assert decode(last.response_ids) == group.rollouts[0].text
    assert group.rollouts[0].segments[0].prompt_ids == group.rollouts[1].segments[0].prompt_ids


def test_trajectories_share_batches_and_the_first_turn_of_a_group_is_one_request(documents):
    engine = ScriptedEngine(reader)
    groups = source(documents, engine, group_size=4)([sample("a"), sample("b", end=58)], step=0)
    longest = max(len(rollout.segments) for group in groups for rollout in group.rollouts)
    assert engine.calls == longest  # no more rounds than the longest trajectory has segments
    assert [request.n for request in engine.requests[:2]] == [4, 4]
    assert {request.n for request in engine.requests[2:]} == {1}


def test_seeds_differ_between_steps_attempts_places_and_members_and_repeat_otherwise(documents):
    def seeds(step, attempt=0):
        engine = ScriptedEngine(reader)
        source(documents, engine)([sample("a"), sample("a")], step, attempt)
        return [request.seed for request in engine.requests]

    assert seeds(1) == seeds(1)
    assert len(set(seeds(1))) == len(seeds(1))
    assert not set(seeds(1)) & set(seeds(2))
    assert not set(seeds(1)) & set(seeds(1, attempt=1))


def test_sampling_settings_reach_the_engine(documents):
    engine = ScriptedEngine(reader)
    source(documents, engine, temperature=0.3, top_p=0.5)([sample("a")], step=0)
    assert {(request.temperature, request.top_p) for request in engine.requests} == {(0.3, 0.5)}
    assert {request.max_tokens for request in engine.requests} == {80, 20}


def test_lengths_over_the_window_are_refused_when_the_source_is_made(documents):
    with pytest.raises(InputError, match="window has 300"):
        source(documents, ScriptedEngine(reader, max_model_tokens=300))


def test_rewards_are_timed(documents):
    rollouts = source(documents)
    rollouts([sample("a")], step=0)
    assert rollouts.reward_seconds > 0


def test_the_first_places_group_of_every_call_is_handed_to_who_wants_to_show_it(documents):
    told = []
    make = source(documents, on_trajectories=lambda *of: told.append(of))
    make([sample("a"), sample("b", end=58)], step=3)
    (group,) = make([sample("c")], step=4, attempt=1, places=[7])
    assert [(step, attempt, asked.id) for step, attempt, asked, _, _ in told] == [(3, 0, "a"), (4, 1, "c")]
    results, scores = told[1][3:]
    assert [result.text for result in results] == [rollout.text for rollout in group.rollouts]
    assert [scored.reward for scored in scores] == [rollout.reward for rollout in group.rollouts]
    assert [len(result.turns) for result in results] == [rollout.counters["turns"] for rollout in group.rollouts]


def asked_of(documents, by, split_many=None):
    """What the first turn and the last prompt of a sample are asked, with formatting words in its question."""
    seen = []

    def read(prompt, request, index):
        seen.append(prompt.split("<user>\n")[-1])
        return reader(prompt, request, index)

    agent = LENGTHS.model_copy(update={"split_question": by})
    options = {"group_size": 1, "temperature": 0.7, "top_p": 0.95, "seed": 5, "split_many": split_many}
    wordy = sample("a").model_copy(update={"question": "In capitals: where does the Elbe go? Answer with one word."})
    MemoryRolloutSource(ScriptedEngine(read), documents, agent, **options)([wordy], step=0)
    return seen[0].split("</question>")[0], seen[-1].split("</question>")[1]


def test_the_question_is_split_off_by_rules_or_by_a_model(documents, tmp_path):
    form = "Answer with the name or phrase only.\n<assistant>\n"
    first, last = asked_of(documents, "off")
    assert first == "<question>In capitals: where does the Elbe go? Answer with one word."
    assert last == f"\n{form}"
    first, last = asked_of(documents, "rules")
    assert first == "<question>In capitals: where does the Elbe go?"
    assert last == f"\nAnswer with one word.\n{form}"
    asked = []

    def model(questions):
        asked.extend(questions)
        return [SplitQuery("where does the Elbe go?", "In capitals: Answer with one word.") for _ in questions]

    for _ in range(2):  # the second time it is on disk
        first, last = asked_of(documents, "model", KeptSplits(tmp_path / "splits.jsonl", model))
        assert first == "<question>where does the Elbe go?"
        assert last == f"\nIn capitals: Answer with one word.\n{form}"
    assert len(asked) == 1
    assert asked_of(documents, "model") == asked_of(documents, "rules")  # no model is configured


def test_half_a_line_of_kept_splits_is_passed_over(tmp_path):
    path = tmp_path / "splits.jsonl"
    KeptSplits(path, lambda questions: [SplitQuery(question, "") for question in questions])(["a?", "b?"])
    path.write_text(path.read_text()[:-20])
    asked = []

    def ask(questions):
        asked.extend(questions)
        return [SplitQuery(question, "x") for question in questions]

    kept = KeptSplits(path, ask)
    assert kept(["b?", "a?", "b?"]) == [SplitQuery("b?", "x"), SplitQuery("a?", ""), SplitQuery("b?", "x")]
    assert asked == ["b?"]
    assert KeptSplits(path, ask)(["b?"]) == [SplitQuery("b?", "x")]
