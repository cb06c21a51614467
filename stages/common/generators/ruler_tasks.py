"""RULER's other generated tasks (Hsieh et al. 2024): more needles, variable tracking, common and frequent words.

As published: needle sentence, noise sentence, values of 7 digits or uuids, one chain of 4 hops, 10 common words 30 times
and the others 3 times, coded words by a zeta distribution of alpha 2. Departures: prose hay and words come from the texts
given; word counts shrink in contexts that are too short for them.
"""

from __future__ import annotations

import itertools
import random
import re
import string
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stages.common.fitting import CountTokens, longest_prefix
from stages.common.generators.ruler import DEPTHS, random_key

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
COMMON_WORDS, FREQUENT_WORDS = 10, 3
_COMMON_TIMES, _OTHER_TIMES = 30, 3
_HOPS = 4
_ZETA_2 = 1.6449340668482264
_CODE_LETTERS = 6
_VARIABLE_LETTERS = 5
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class RulerTask:
    """context, what is asked (`query` fills the prompt form), the gold strings, where the first needle begins (0 to 1)."""

    context: str
    query: str
    golds: tuple[str, ...]
    position: float | None = None


@dataclass(frozen=True)
class NeedleForm:
    """A needle-in-a-haystack task. hay: noise, prose or needles; keys, values: words, numbers or uuids.

    keys: needles hidden; values: values of each; queries: keys asked for.
    """

    hay: str
    key_kind: str = "words"
    value_kind: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1


NEEDLE_FORMS = {
    "niah_single_1": NeedleForm("noise"),
    "niah_single_2": NeedleForm("prose"),
    "niah_single_3": NeedleForm("prose", value_kind="uuids"),
    "niah_multikey_1": NeedleForm("prose", keys=4),
    "niah_multikey_2": NeedleForm("needles"),
    "niah_multikey_3": NeedleForm("needles", key_kind="uuids", value_kind="uuids"),
    "niah_multivalue": NeedleForm("prose", values=4),
    "niah_multiquery": NeedleForm("prose", keys=4, queries=4),
}


def make_needles(form: NeedleForm, prose: str, tokens: int, chance: random.Random, count: CountTokens) -> RulerTask:
    """A haystack of about `tokens` tokens (never more, if the needles fit at all) with its needles.

    prose: at least `tokens` tokens of it, for hays of prose.
    """
    taken: set[str] = set()

    def unused(kind: str) -> str:
        made = _value(kind, chance)
        while made in taken:  # a long hay of needles uses up the pairs of words: longer keys follow
            made = f"{random_key(chance).split('-')[0]}-{made}" if kind == "words" else _value(kind, chance)
        taken.add(made)
        return made

    def needle(key: str, value: str) -> str:
        return f"One of the special magic {form.value_kind} for {key} is: {value}."

    keys = [unused(form.key_kind) for _ in range(form.keys)]
    values = {key: [unused(form.value_kind) for _ in range(form.values)] for key in keys}
    needles = [needle(key, value) for key in keys for value in values[key]]
    room = tokens - count(" ".join(needles))
    if form.hay == "prose":
        hay = _SENTENCE.split(prose[: longest_prefix(prose, max(0, room), count, slack_tokens=8)])
    elif form.hay == "noise":
        hay = _repeat(lambda: NOISE, room, count)
    else:
        hay = _repeat(lambda: needle(unused(form.key_kind), unused(form.value_kind)), room, count)
    text, position = _hide(hay, needles, chance, "\n" if form.hay != "prose" else " ")
    asked = chance.sample(keys, k=form.queries)
    golds = tuple(value for key in asked for value in values[key])
    query = asked[0] if len(asked) == 1 else ", ".join(asked[:-1]) + ", and " + asked[-1]
    return RulerTask(text, query, golds, position)


def make_chain(tokens: int, chance: random.Random, count: CountTokens) -> RulerTask:
    """Variable tracking: a value handed on over four hops, in order, in noise; the golds are the five variables."""
    names: list[str] = []
    while len(names) <= _HOPS:
        name = "".join(chance.choices(string.ascii_uppercase, k=_VARIABLE_LETTERS))
        if name not in names:
            names.append(name)
    value = str(chance.randint(10_000, 99_999))
    links = [f"VAR {names[0]} = {value}"]
    links += [f"VAR {later} = VAR {earlier}" for earlier, later in itertools.pairwise(names)]
    hay = _repeat(lambda: NOISE, tokens - count("\n".join(links)), count)
    text, position = _hide(hay, links, chance, "\n", in_order=True)
    return RulerTask(text, value, tuple(names), position)


def make_common_words(words: Sequence[str], tokens: int, chance: random.Random, count: CountTokens) -> RulerTask:
    """Common words: ten words ten times as often as the others, in a numbered list in random order.

    words: distinct ones to choose from. ValueError if there are fewer than twenty.
    """
    if len(words) < 2 * COMMON_WORDS:
        raise ValueError(f"{len(words)} different words are too few")
    chosen = chance.sample(words, k=len(words))
    common, rest = chosen[:COMMON_WORDS], chosen[COMMON_WORDS:]

    def listed(entries: int) -> list[str]:
        times = max(2, min(_COMMON_TIMES, entries // (2 * COMMON_WORDS)))
        other_times = _OTHER_TIMES if times >= _COMMON_TIMES else 1
        return common * times + rest[: max(1, (entries - COMMON_WORDS * times) // other_times)] * other_times

    def numbered(words: Sequence[str]) -> str:
        return "\n".join(f"{number}. {word}" for number, word in enumerate(words, start=1))

    shuffled = listed(_fitting(lambda entries: count(numbered(listed(entries))), tokens))
    chance.shuffle(shuffled)
    return RulerTask(numbered(shuffled), "", tuple(common))


def make_frequent_words(tokens: int, chance: random.Random, count: CountTokens) -> RulerTask:
    """Frequent words: coded words whose counts fall as 1 / rank^2; the first rank is dots, the next three are the golds."""
    codes: list[str] = []
    while len(codes) < 400:
        code = "".join(chance.choices(string.ascii_lowercase, k=_CODE_LETTERS))
        if code not in codes:
            codes.append(code)

    def listed(total: int) -> list[str]:
        words = []
        for rank, code in enumerate(["....", *codes], start=1):
            words += [code] * round(total / (_ZETA_2 * rank**2))
        return words

    shuffled = listed(max(40, _fitting(lambda total: count(" ".join(listed(total))), tokens)))
    chance.shuffle(shuffled)
    return RulerTask(" ".join(shuffled), "", tuple(codes[:FREQUENT_WORDS]))


def _fitting(tokens_of: Callable[[int], int], tokens: int) -> int:
    """A size for which `tokens_of` is at most `tokens` and not much less, if it is found in a few steps."""
    size = max(1, tokens // 4)
    for _ in range(8):
        found = tokens_of(size)
        if 0.96 * tokens <= found <= tokens:
            break
        size = max(1, int(size * 0.98 * tokens / max(1, found)))
    return size


def _value(kind: str, chance: random.Random) -> str:
    if kind == "words":
        return random_key(chance)
    if kind == "numbers":
        return str(chance.randint(1_000_000, 9_999_999))
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _repeat(make: Callable[[], str], tokens: int, count: CountTokens) -> list[str]:
    """Sentences of about `tokens` tokens together, never more."""
    made = [make() for _ in range(8)]
    each = max(1, count("\n".join(made)) // len(made))
    made += [make() for _ in range(max(0, tokens) // each - len(made))]
    while made and (found := count("\n".join(made))) > max(0, tokens):
        made = made[: min(len(made) - 1, int(len(made) * max(0, tokens) / found))]
    return made


def _hide(
    hay: Sequence[str], needles: Sequence[str], chance: random.Random, joint: str, in_order: bool = False
) -> tuple[str, float]:
    """The hay with each needle at one of RULER's 40 depths, and where the first one begins, as a share."""
    depths = sorted(chance.sample(DEPTHS, k=len(needles)))
    order = list(needles) if in_order else chance.sample(list(needles), k=len(needles))
    parts: list[str] = []
    start, first = 0, None
    for depth, needle in zip(depths, order, strict=True):
        place = round(depth * len(hay))
        parts += hay[start:place]
        start = place
        first = sum(len(part) + len(joint) for part in parts) if first is None else first
        parts.append(needle)
    text = joint.join([*parts, *hay[start:]])
    return text, (first or 0) / max(1, len(text))
