"""Conversations in MRCR's form (Vodrahalli et al. 2024; rows as openai/mrcr publishes them), of any length below a window.

    user: write a poem about tapirs             one of 2, 4 or 8 equal requests
    assistant: <a passage of the corpus>        all replies differ
    user: write a riddle about lanterns         the hay: other requests of the same distribution
    ...
    user: Prepend aYooSG8CQg to the 2nd (1 indexed) poem about tapirs. Do not include any other text in your response.

As published: requests, their equal number, a random string, the ordinal, the last turn's words, the answer with the string
before it. Departure: a reply is a passage of real text under a label, not written by a model to fit it, so the reply says
nothing about its request; topics are a list of our own.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from typing import Any

from stages.common.fitting import CountTokens
from stages.common.turns import ordinal

NEEDLES = (2, 4, 8)  # in the published rows
_FORMATS = (
    "poem", "riddle", "blog post", "news article", "speech", "social media post", "formal essay", "short story", "song",
    "scene in a play",
)  # fmt: skip
_TOPICS = (
    "tapirs", "lanterns", "harbours", "compasses", "glaciers", "umbrellas", "orchards", "clocks", "bridges", "penguins",
    "maps", "violins", "markets", "deserts", "trains", "beehives", "mirrors", "libraries", "volcanoes", "kites",
    "windmills", "pottery", "owls", "tides", "marbles", "gardens", "castles", "ferries", "chess", "rain",
)  # fmt: skip
_PREFIX_CHARACTERS = 10
_TOKENS_AROUND = 5  # of a message in ChatML


def make_row(
    passages: Sequence[str], tokens: int, needles: int, chance: random.Random, count_tokens: CountTokens
) -> dict[str, Any] | None:
    """A row of about `tokens` tokens (prompt and answer) with the published keys. None if the passages do not suffice.

    passages: different texts for the replies, in any order; longer conversations take more of them.
    """
    order = chance.sample(range(len(passages)), k=len(passages))
    label = (chance.choice(_FORMATS), chance.choice(_TOPICS))
    others = [(kind, topic) for kind in _FORMATS for topic in _TOPICS if (kind, topic) != label]
    prefix = "".join(chance.choices(string.ascii_letters + string.digits, k=_PREFIX_CHARACTERS))
    number = chance.randrange(needles)
    last = (
        f"Prepend {prefix} to the {ordinal(number + 1)} (1 indexed) {label[0]} about {label[1]}. "
        "Do not include any other text in your response."
    )
    replies = [passages[index] for index in order[:needles]]
    turns = [(_request(*label), reply) for reply in replies]
    answer = prefix + replies[number] if len(replies) == needles else ""
    used = count_tokens(last) + count_tokens(answer) + sum(_size(turn, count_tokens) for turn in turns)
    if not answer or used > tokens:
        return None
    hay = []
    for index in order[needles:]:
        turn = (_request(*chance.choice(others)), passages[index])
        used += _size(turn, count_tokens)
        if used > tokens:
            break
        hay.append(turn)
    else:
        return None  # the corpus is used up before the length is reached
    places = sorted(chance.sample(range(len(turns) + len(hay)), k=needles))
    for place, turn in zip(places, turns, strict=True):
        hay.insert(place, turn)
    messages = [
        message
        for request, reply in hay
        for message in ({"role": "user", "content": request}, {"role": "assistant", "content": reply})
    ]
    messages.append({"role": "user", "content": last})
    return {
        "prompt": messages,
        "answer": answer,
        "random_string_to_prepend": prefix,
        "n_needles": needles,
        "desired_msg_index": 2 * places[number] + 1,
        "total_messages": len(messages),
        "n_chars": sum(len(message["content"]) for message in messages),
    }


def _request(kind: str, topic: str) -> str:
    return f"write a {kind} about {topic}"


def _size(turn: tuple[str, str], count_tokens: CountTokens) -> int:
    return sum(count_tokens(text) + _TOKENS_AROUND for text in turn)
