"""Dialogue recall at any length, MRCR's form (Vodrahalli et al. 2024): one of 2 to 8 replies to the same request, word for word.

As published: equal requests, replies that differ, the ordinal decides, a random string stands before the reply. Departure:
the conversation around them is the corpus' own; replies are made of a word list, each with a number of its own.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

from stages.common.generators.ruler import random_key
from stages.common.generators.streamed import Passage
from stages.common.turns import ordinal

MIN_REPLIES, MAX_REPLIES, OTHER_TOPICS = 2, 8, 3
_PLACES = (
    "harbour",
    "market",
    "old mill",
    "north gate",
    "library",
    "station",
    "quarry",
    "lighthouse",
    "brewery",
    "town hall",
)
_FORMS = (
    "The {topic} was seen near the {place} on day {day}; {number} visitors wrote their names beside a {other}.",
    "On day {day} the keeper of the {place} weighed the {topic} and noted {number} grams, as heavy as the {other}.",
    "Nobody at the {place} knew the {topic} until day {day}, when {number} letters about it arrived with a {other}.",
    "They traded the {topic} for a {other} at the {place} and {number} copper coins, which was settled on day {day}.",
)


@dataclass(frozen=True)
class RecallTask:
    """Passages to hide, what is asked, the reply and the string before it. topics: of which the hay must not speak."""

    passages: tuple[Passage, ...]
    question: str
    prefix: str
    reply: str
    depth: float
    topics: tuple[str, ...]

    @property
    def gold(self) -> str:
        return self.prefix + self.reply


def hidden_replies(chance: random.Random) -> RecallTask:
    """Requests for notes about a few topics; the i-th note about the first topic is asked for."""
    topics: list[str] = []
    while len(topics) <= OTHER_TOPICS:
        topic = random_key(chance)
        if topic not in topics:
            topics.append(topic)
    numbers = iter(chance.sample(range(100, 1_000), k=(OTHER_TOPICS + 1) * MAX_REPLIES))  # no two replies are equal
    passages: list[Passage] = []
    notes: list[Passage] = []
    for topic in topics:
        depths = sorted(chance.random() for _ in range(chance.randint(MIN_REPLIES, MAX_REPLIES)))
        made = [Passage(depth, _note(topic, next(numbers), chance)) for depth in depths]
        notes = notes or made
        passages += [
            Passage(note.depth, f"user: Please write a short note about the {topic}.\nassistant: {note.text}")
            for note in made
        ]
    number = chance.randrange(len(notes))
    prefix = "".join(chance.choices(string.ascii_letters + string.digits, k=10))
    question = (
        f"The user asked several times for a note about the {topics[0]}. Prepend {prefix} to the {ordinal(number + 1)} of "
        f"these notes: write {prefix} directly followed by that note, word for word."
    )
    chosen = notes[number]
    return RecallTask(tuple(passages), question, prefix, chosen.text, chosen.depth, tuple(topics))


def _note(topic: str, number: int, chance: random.Random) -> str:
    return chance.choice(_FORMS).format(
        topic=topic,
        number=number,
        place=chance.choice(_PLACES),
        day=chance.randint(1, 365),
        other=random_key(chance).replace("-", " "),
    )
