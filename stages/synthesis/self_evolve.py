"""Multi-agent self-evolution (paper section 3.2, third generator): a model writes, answers and checks questions.

    proposer   documents of a cluster + history -> questions with answers and quotes
    programs   quotes found in the documents, answer not in the question, ... (self_evolve_checks.py)
    solver     documents + question -> answer; and once without the documents, which must fail
    verifier   are the two answers the same? -> verified questions enter the history
    next round more documents per cluster, a higher level, questions unlike those in the history

Departures: programs check before the verifier does, quotes are required, and a question that the solver answers from
memory is dropped. Calls are made phase by phase in a fixed order and every reply is cached by content, so a killed run
repeats no call and arrives at the same questions. A failed call is a counted drop; a used-up budget ends the rounds.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from stages.common.chat import ChatFailedError, ChatModel
from stages.common.chat_json import schema_of
from stages.common.records import QAPair, TaskType
from stages.common.seeds import derive_seed
from stages.common.storage import DocumentStore
from stages.common.text import collapse_blanks
from stages.synthesis.config import SelfEvolutionConfig
from stages.synthesis.pairs import make_pair
from stages.synthesis.self_evolve_calls import Candidate, Evolution, ask, phase
from stages.synthesis.self_evolve_checks import check, kind_of
from stages.synthesis.self_evolve_clusters import Clusters
from stages.synthesis.self_evolve_prompts import (
    FAMILIES,
    PROPOSALS_PER_CALL,
    Excerpt,
    LooseProposalList,
    Proposal,
    ProposalList,
    proposer_messages,
)
from stages.synthesis.self_evolve_verify import verify

log = logging.getLogger(__name__)

_VERIFIED_PER_CALL = 1.5  # proposals that usually survive, of three
_PROPOSER_TEMPERATURE = 0.8
_PROPOSER_TOKENS = 4096


async def self_evolve(
    documents: DocumentStore,
    chat: ChatModel,
    config: SelfEvolutionConfig,
    seed: int,
    taken: Sequence[QAPair] = (),
) -> Evolution:
    """Up to `config.questions` verified questions; fewer if rounds or budget end first.

    taken: questions that exist already and are not to be asked again.
    Raises EndpointError if the endpoint refuses every call, EnvironmentFailureError if nobody answers.
    """
    evolution = Evolution()
    clusters = Clusters(documents, config.max_documents, derive_seed(seed, "mase"))
    if not len(clusters):
        log.warning("self-evolution: no document is long enough to be read")
        return evolution
    seen = {_key(pair.question) for pair in taken}
    history: dict[int, list[QAPair]] = {}
    reserve: list[QAPair] = []  # verified beyond a round's share: easier ones must not take the place of harder ones
    for round_index in range(config.rounds):
        share = math.ceil((config.questions - len(evolution.pairs)) / (config.rounds - round_index))
        calls = math.ceil(share / _VERIFIED_PER_CALL)
        if calls <= 0:
            break
        jobs = [_job(clusters, config, number, round_index) for number in range(calls)]
        candidates = await _propose(chat, jobs, history, seen, evolution, derive_seed(seed, "mase", round_index))
        verified = await verify(chat, candidates, config.closed_book, evolution)
        for place, (candidate, proof) in enumerate(verified):
            pair = _pair(candidate, proof, seed)
            (evolution.pairs if place < share else reserve).append(pair)
            history.setdefault(candidate.cluster, []).append(pair)
        evolution.rounds.append(len(verified))
        log.info("self-evolution round %d of %d: %d verified", round_index + 1, config.rounds, len(verified))
        if any(evolution.counts[f"{role}_budget"] for role in ("proposer", "solver", "verifier", "closed_book")):
            log.warning("self-evolution: the budget is used up, so no further round begins")
            break
    evolution.pairs += reserve[: config.questions - len(evolution.pairs)]
    evolution.counts["verified"] = len(evolution.pairs)
    return evolution


@dataclass(frozen=True)
class _Job:
    """One call of the proposer."""

    family: str
    cluster: int
    round_index: int
    excerpts: tuple[Excerpt, ...]


def _job(clusters: Clusters, config: SelfEvolutionConfig, number: int, round_index: int) -> _Job:
    """Cluster `number` in this round: more documents than in the round before, another family."""
    share = round_index / max(1, config.rounds - 1)
    size = round(config.min_documents + share * (config.max_documents - config.min_documents))
    chosen = clusters.cluster(number)[:size]
    excerpts = clusters.excerpts(chosen, config.excerpt_characters, number, round_index)
    return _Job(list(FAMILIES)[(number + round_index) % len(FAMILIES)], number, round_index, tuple(excerpts))


async def _propose(
    chat: ChatModel,
    jobs: Sequence[_Job],
    history: Mapping[int, Sequence[QAPair]],
    seen: set[str],
    evolution: Evolution,
    seed: int,
) -> list[Candidate]:
    """The proposals of all jobs that pass the programs, in the order of jobs."""

    async def one(job: _Job) -> LooseProposalList:
        messages = proposer_messages(job.family, job.round_index, job.excerpts, history.get(job.cluster, ()))
        return await ask(
            chat,
            messages,
            LooseProposalList,
            schema_of(ProposalList),
            _PROPOSER_TOKENS,
            _PROPOSER_TEMPERATURE,
            derive_seed(seed, job.cluster),
        )

    candidates = []
    for job, reply in zip(jobs, await phase("proposer", one, jobs, evolution), strict=True):
        where = {"documents": [excerpt.document_id for excerpt in job.excerpts], "family": job.family}
        if isinstance(reply, ChatFailedError):
            evolution.drop_failed("proposer", reply, where)
            continue
        evolution.counts["proposed"] += len(reply.questions)
        for item in reply.questions[: 2 * PROPOSALS_PER_CALL]:
            candidate = _candidate(item, job, seen, evolution, where)
            if candidate is not None:
                candidates.append(candidate)
    return candidates


def _candidate(
    item: Any, job: _Job, seen: set[str], evolution: Evolution, where: Mapping[str, Any]
) -> Candidate | None:
    """A proposal as a candidate; None if it was dropped."""
    try:
        proposal = Proposal.model_validate(item)
    except ValidationError as error:
        evolution.drop("malformed_question", str(error.errors(include_input=False)[0]["msg"]), where)
        return None
    record = {**where, "question": proposal.question, "answer": proposal.answer}
    needed = 2 if job.round_index >= 1 and len(job.excerpts) >= 2 else 1
    checked = check(proposal, job.excerpts, needed)
    if isinstance(checked, tuple):
        evolution.drop(*checked, record)
        return None
    question, answer = collapse_blanks(proposal.question), collapse_blanks(proposal.answer)
    candidate = Candidate(
        job.family, job.cluster, job.round_index + 1, question, answer, kind_of(answer), tuple(checked), job.excerpts
    )
    key = _key(question)
    if key in seen:
        evolution.drop("duplicate_question", question, record)
        return None
    seen.add(key)
    return candidate


def _pair(candidate: Candidate, proof: Mapping[str, Any], seed: int) -> QAPair:
    return make_pair(
        task_type=TaskType.READING_COMPREHENSION,
        question=candidate.question,
        answer=candidate.answer,
        answer_kind=candidate.kind,
        evidence=candidate.evidence,
        proof={
            "kind": "mase",
            "family": candidate.family,
            "level": candidate.level,
            "answer": candidate.answer,
            "documents": [excerpt.document_id for excerpt in candidate.excerpts],
            **proof,
        },
        generator=f"mase_{candidate.family}",
        seed=seed,
    )


def _key(question: str) -> str:
    """Equal for questions that differ in case, punctuation and blanks only."""
    return " ".join(re.findall(r"\w+", question.lower()))
