"""Whether a turn says a word or phrase: as whole words, whatever the capitals and hyphens.

A phrase is only asked about where no turn holds it inside other words ("latte" in "lattes"), so that there is nothing to argue.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from stages.common.text import collapse_blanks
from stages.common.turns import Turn

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[.,;:?!|]+(?=\s|$)")
_STOP = "|"
_ADDED = re.compile(r"[{<\[][^{}<>\[\]\n]{0,40}[}>\]]")  # {disfmarker}, [email removed]
_HYPHENS = str.maketrans(dict.fromkeys("-‐‑–—_", " "))
_MIN_LETTERS, _MIN_LETTERS_IN_PHRASE = 5, 3
# Words that say nothing of what a conversation is about.
_COMMON = """
about above actually after again already alright also although always and another any anybody anyone anything anyway
are around because been before being better between both but came can can't cannot come comes coming could couldn't
course did didn't different does doesn't doing don't done down each either else enough even ever every everybody
everyone everything exactly example fact few first for from get gets getting give given goes going gonna good got
great had has hasn't have haven't having he'd hello here here's how however i'd i'll i'm i've instance into isn't
it'd it'll it's its itself just kind know last later least less let let's like likely little look looking looks lots
made make makes making many maybe mean means might more most much must need needs never next nice not nothing now
off okay once one only onto other others our out over own part people perhaps please point possible probably put
quite rather really right said same saying see seem seems seen sense should shouldn't show since some somebody
someone something sometimes somewhere sort still stuff such sure take taken taking talk talking tell than thank
thanks that that'll that's the their them then there there's these they they'd they'll they're they've thing things
think thinking this those though three through together told too two under until upon use used using very want
wanted wants was wasn't way ways we'd we'll we're we've well were weren't what what's whatever when where whether
which while who who's whole whom why will with within without won't would wouldn't yeah yes yet you you'd you'll
you're you've your yours
"""
COMMON = frozenset(_COMMON.split())

NOT_MENTIONED = "not mentioned"
# On every question that could be asked of something that is not there, answerable or not: it gives nothing away.
OR_NOT_MENTIONED = f'If that is not said there, answer "{NOT_MENTIONED}".'
_ROLES = frozenset({"user", "assistant", "agent", "customer", "human", "bot"})
_MACHINES = frozenset({"tool", "system"})


def words_of(text: str) -> list[str]:
    """The words of a text, lower-case. What a transcriber adds ("{vocalsound}") are none."""
    return [word for word in _words_and_stops(text) if word != _STOP]


def _words_and_stops(text: str) -> list[str]:
    """Words and, where a sentence or clause ends, a stop: words on both sides of it are no phrase."""
    return [word if word[0].isalnum() else _STOP for word in _WORD.findall(_even(text))]


def _even(text: str) -> str:
    return _ADDED.sub(" | ", text).lower().translate(_HYPHENS)


def says(text: str, phrase: str) -> bool:
    """True if the text has the words of the phrase in a row."""
    return f" {' '.join(words_of(phrase))} " in f" {' '.join(_words_and_stops(text))} "


def holds(text: str, phrase: str) -> bool:
    """True if the text has the phrase's characters, inside other words or not."""
    return " ".join(words_of(phrase)) in collapse_blanks(_even(text))


def is_clear(texts: Iterable[str], phrase: str) -> bool:
    """True if every text that has the phrase's characters says it in whole words, and the other way round."""
    return all(says(text, phrase) == holds(text, phrase) for text in texts)


def telling(words: Iterable[str]) -> list[str]:
    """The words that are about something."""
    return [word for word in words if len(word) >= _MIN_LETTERS and word.isalpha() and word not in COMMON]


def phrases_in(turns: Sequence[Turn]) -> dict[str, list[int]]:
    """Words and pairs of words worth asking about -> numbers of the turns that say them, ascending."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for number, turn in enumerate(turns):
        words = _words_and_stops(turn.text)
        can_pair = [len(w) >= _MIN_LETTERS_IN_PHRASE and w.isalpha() and w not in COMMON for w in words]
        pairs = [f"{words[i]} {words[i + 1]}" for i in range(len(words) - 1) if can_pair[i] and can_pair[i + 1]]
        for phrase in dict.fromkeys([*telling(words), *pairs]):
            found[phrase].append(number)
    return dict(found)


def is_machine(speaker: str) -> bool:
    """True for turns that no one says."""
    return speaker.strip().lower() in _MACHINES


def can_be_quoted(text: str) -> bool:
    """True for words that keep their meaning between double quotes."""
    return '"' not in text and "\n" not in text


def named(speaker: str) -> str:
    """A speaker as a sentence names it: "the user", but "Marketing"."""
    return f"the {speaker}" if speaker.lower() in _ROLES else speaker


def quoted(phrase: str) -> str:
    """A phrase as a sentence names it: the word "latte", the words "oat milk"."""
    return f'the word{"s" if " " in phrase else ""} "{phrase}"'
