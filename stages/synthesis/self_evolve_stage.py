"""Self-evolution as a part of synthesize@reading_comprehension: run where an endpoint is configured, else skipped visibly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from stages.common.chat_access import open_chat
from stages.common.chat_client import OpenAIChat
from stages.common.records import QAPair
from stages.common.storage import DocumentStore, write_json
from stages.synthesis.config import ReadingConfig, SelfEvolutionConfig, SynthesizeStage
from stages.synthesis.self_evolve import self_evolve
from stages.synthesis.self_evolve_calls import Evolution

log = logging.getLogger(__name__)


def evolve_if_configured(
    config: SynthesizeStage, documents: DocumentStore, taken: Sequence[QAPair], state_dir: Path
) -> Evolution | None:
    """Questions made by self-evolution; None if no endpoint is configured or none are wanted."""
    plan = config.generator.self_evolution if isinstance(config.generator, ReadingConfig) else None
    chat = open_chat(config.writer, state_dir)
    if plan is None or plan.questions == 0 or chat is None:
        log.info("self-evolution is skipped: endpoints.writer.model is null, or no questions are wanted")
        return None
    return asyncio.run(_evolve(chat, documents, plan, config.seed, taken))


async def _evolve(
    chat: OpenAIChat, documents: DocumentStore, plan: SelfEvolutionConfig, seed: int, taken: Sequence[QAPair]
) -> Evolution:
    async with chat:
        evolution = await self_evolve(documents, chat, plan, seed, taken)
    ledger = chat.ledger
    log.info(
        "self-evolution: %d calls, %d replies from the cache, %d tokens, %.2f USD",
        ledger.calls,
        ledger.cache_hits,
        chat.budget.tokens,
        chat.budget.usd,
    )
    return evolution


def write_evolution(out_dir: Path, evolution: Evolution | None) -> dict[str, int]:
    """Write self_evolution.json (what was proposed, verified, dropped and why); return the counts of the stage."""
    counts = dict(sorted(evolution.counts.items())) if evolution is not None else {}
    rounds = evolution.rounds if evolution is not None else []
    write_json(
        out_dir / "self_evolution.json",
        {"skipped": evolution is None, "counts": counts, "verified_per_round": rounds},
    )
    if evolution is None:
        return {"self_evolved": 0, "self_evolution_skipped": 1}
    return {"self_evolved": len(evolution.pairs), "self_evolution_skipped": 0}
