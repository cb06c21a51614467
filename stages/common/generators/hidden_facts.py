"""What is hidden in texts of any length: RULER's needle, and chains of facts that must be followed from hop to hop.

A chain, one sentence per hop, in reading order at rising depths, since the memory agent cannot go back:

    The amber-key was first given to agent Vel-4821.      Agent Vel-4821 passed the amber-key on to agent Tor-1177.
    Agent Tor-1177 locked the amber-key away in vault 5830217.          asked: in which vault does the amber-key lie?

Other chains of the same form, with other things, agents and vaults, are hidden beside it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from stages.common.generators.ruler import needle_question, needle_sentence, random_key
from stages.common.generators.streamed import Passage

PASSED_ON, OTHER_CHAINS = 2, 3
_SYLLABLES = ("Bel", "Dor", "Fen", "Gar", "Hal", "Jun", "Kov", "Lim", "Mar", "Nor", "Pel", "Quin", "Ros", "Tor", "Vel")


@dataclass(frozen=True)
class HiddenTask:
    """Passages to hide, what is asked, its answer.

    evidence: indices of the passages that the answer follows from. names: of which the hay must not speak.
    """

    passages: tuple[Passage, ...]
    question: str
    answer: str
    evidence: tuple[int, ...]
    names: tuple[str, ...]


def hidden_needle(depth: float, chance: random.Random) -> HiddenTask:
    """One magic number at a depth."""
    key, value = random_key(chance), str(chance.randint(1_000_000, 9_999_999))
    return HiddenTask((Passage(depth, needle_sentence(key, value)),), needle_question(key), value, (0,), (key,))


def hidden_chain(chance: random.Random, passed_on: int = PASSED_ON, others: int = OTHER_CHAINS) -> HiddenTask:
    """A chain of `passed_on` + 2 facts among others; no thing, agent or vault occurs in two chains."""
    things, agents, vaults = set[str](), set[str](), set[str]()
    passages: list[Passage] = []
    first_thing, first_vault = "", ""
    for number in range(others + 1):
        thing = _unused(things, lambda: random_key(chance))
        holders = [
            _unused(agents, lambda: f"{chance.choice(_SYLLABLES)}-{chance.randint(1_000, 9_999)}")
            for _ in range(passed_on + 1)
        ]
        vault = _unused(vaults, lambda: str(chance.randint(1_000_000, 9_999_999)))
        facts = [f"The {thing} was first given to agent {holders[0]}."]
        facts += [
            f"Agent {giver} passed the {thing} on to agent {taker}." for giver, taker in itertools.pairwise(holders)
        ]
        facts.append(f"Agent {holders[-1]} locked the {thing} away in vault {vault}.")
        depths = sorted(chance.random() for _ in facts)
        passages += [Passage(depth, fact) for depth, fact in zip(depths, facts, strict=True)]
        if number == 0:
            first_thing, first_vault = thing, vault
    question = (
        f"The {first_thing} was given to an agent, passed on from agent to agent and locked away. What is the number of the "
        f"vault in which the last agent locked the {first_thing} away?"
    )
    return HiddenTask(tuple(passages), question, first_vault, tuple(range(passed_on + 2)), tuple(sorted(things)))


def _unused(taken: set[str], make: Callable[[], str]) -> str:
    while (made := make()) in taken:
        pass
    taken.add(made)
    return made
