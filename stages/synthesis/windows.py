"""Windows: the parts of real conversations that dialogue questions are asked about.

A window holds consecutive turns of one session, or several whole sessions of a document. Windows do not overlap, whatever kind
of question they serve, so held-out windows exist; most are small, since a short context must be able to hold one whole.
"""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stages.common.records import Document, Evidence, Span
from stages.common.seeds import rng
from stages.common.turns import Turn
from stages.synthesis.mentions import is_machine
from stages.synthesis.sessions import Session, sessions_of

# Window lengths in characters: (share of the windows, shortest, longest). The last class grows with the corpus, up to a limit.
_SHORT, _MEDIUM, _LONG = (0.6, 120, 320), (0.9, 320, 750), (1.0, 750)
# A window of whole sessions: how many. Small numbers often (one is a window as well), for short contexts; large ones, for counting.
_SESSIONS = (1, 1, 1, 2, 3, 3, 3, 4, 5, 7, 12)
_MOST_WITH_RECORD = 3_000
_TOGETHER_SHARE = 2 / 3  # of the longest window: records take more tokens than words
USUAL_LONGEST = 60_000  # characters; beyond it, windows of very many sessions are wanted, too
_LONG_SESSION = 1_500  # characters; such a session is cut into windows itself, or a window alone, some of the time
_PARTS_SHARE, _WHOLE_SESSION_SHARE = 0.5, 0.2
MIN_TURNS, MIN_WORDS, MAX_WORDS = 3, 3, 25
MARKS = frozenset("{}[]<>")  # {vocalsound}, tool output, removed names
_FIRST_WORDS = 8  # of a window, quoted in the question
# Said while another speaks; they tell nothing apart.
_FILLERS = """
ah aha eh er erm hm hmm huh mhm mm mmm mm-hmm oh ok okay so uh uh-huh uhm um well yeah yep yes no right
"""
FILLERS = frozenset(_FILLERS.split())


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive turns of one document, by session; the question's context holds them all.

    start: of the first turn, or of the first session's heading if the sessions are whole. repeated: what several turns of the
    document say.
    """

    document: Document
    sessions: tuple[Session, ...]
    turns: tuple[Turn, ...]
    start: int
    repeated: frozenset[str] = frozenset()

    @property
    def end(self) -> int:
        return self.turns[-1].end

    @property
    def span(self) -> dict[str, str | int]:
        return {"document_id": self.document.id, "start": self.start, "end": self.end}

    @property
    def part(self) -> str:
        """The window in words, by the turn with which it begins."""
        first = self.turns[0]
        said = f"{first.speaker}: {' '.join(first.text.split()[:_FIRST_WORDS])}"
        if len(self.sessions) > 1:
            return (
                f'In "{self.document.title}", take the sessions from the one that begins with the turn "{said}" on, '
                "as far as they are given."
            )
        return (
            f'In the conversation "{self.document.title}", take the part from the turn "{said}" on, '
            "as far as it is given."
        )

    def around(self, turn: Turn) -> dict[str, str | int]:
        """The turn with the ones before and after it: what a quoted turn needs, whatever the window's length."""
        index = self.turns.index(turn)
        near = self.turns[max(0, index - 1) : index + 2]
        return {"document_id": self.document.id, "start": near[0].start, "end": near[-1].end}

    def read(self, span: Span) -> str:
        """The text of a span of the document."""
        return self.document.text[span.start : span.end]

    def evidence(self, *turns: Turn) -> list[Evidence]:
        text = self.document.text
        return [
            Evidence(document_id=self.document.id, start=turn.start, end=turn.end, quote=text[turn.start : turn.end])
            for turn in turns
        ]


def cut_windows(documents: Sequence[Document], questions: int, seed: int, max_characters: int) -> list[Window]:
    """Cut every conversation into windows that do not overlap, of at most `max_characters`.

    The more text there is for each question, the longer the longest are.
    """
    total_characters = sum(len(document.text) for document in documents)
    longest = min(max_characters, max(2 * _LONG[1], 8 * total_characters // max(1, questions)))
    windows = []
    for document in documents:
        windows += list(_windows_of(document, longest, max_characters, rng(seed, "windows", document.id)))
    return windows


def _windows_of(document: Document, longest: int, max_characters: int, chance: random.Random) -> Iterator[Window]:
    sessions = sessions_of(document.text)
    times = Counter(turn.text for session in sessions for turn in session.turns)
    repeated = frozenset(text for text, count in times.items() if count > 1)
    first = 0
    while first < len(sessions):
        is_long = sessions[first].end - sessions[first].start > _LONG_SESSION
        share = chance.random() if is_long else 1.0
        taken = 1
        if len(sessions) == 1 or share < _PARTS_SHARE:
            yield from _parts(document, sessions[first].turns, repeated, longest, chance)
        else:
            if share >= _PARTS_SHARE + _WHOLE_SESSION_SHARE:
                wanted = _sessions_wanted(longest, chance)
                if wanted == 1 and len(sessions[first].turns) < MIN_TURNS:
                    wanted = 2  # rather than none
                taken = _together(sessions[first : first + wanted], int(_TOGETHER_SHARE * max_characters))
            group = tuple(sessions[first : first + taken])
            while group and not _can_begin(group[0].turns[0]):
                group = group[1:]
            turns = tuple(turn for session in group for turn in session.turns)
            if len(turns) >= MIN_TURNS:
                yield Window(document, group, turns, group[0].start, repeated)
        first += taken


def _sessions_wanted(longest: int, chance: random.Random) -> int:
    """How many sessions a window shall hold; where very long windows are asked for, up to as many times more, log-uniform."""
    wanted = chance.choice(_SESSIONS)
    return wanted if longest <= USUAL_LONGEST else int(wanted * (longest / USUAL_LONGEST) ** chance.random())


def _together(sessions: list[Session], most_characters: int) -> int:
    """How many of the sessions fit into one window; one at least."""
    fitting = [n for n, session in enumerate(sessions, start=1) if session.end - sessions[0].start <= most_characters]
    return fitting[-1] if fitting else 1


def _parts(
    document: Document, turns: Sequence[Turn], repeated: frozenset[str], longest: int, chance: random.Random
) -> Iterator[Window]:
    """Windows inside one session."""
    first = 0
    while first < len(turns):
        if not _can_begin(turns[first]):
            first += 1
            continue
        wanted = _window_characters(longest, chance)
        last = first
        while last + 1 < len(turns) and turns[last + 1].end - turns[first].start <= wanted:
            last += 1
        fewest = first + MIN_TURNS - 1
        if last < fewest < len(turns):  # a little longer than drawn, rather than none
            has_record = any(is_machine(turn.speaker) for turn in turns[first : fewest + 1])
            if turns[fewest].end - turns[first].start <= (_MOST_WITH_RECORD if has_record else _MEDIUM[2]):
                last = fewest
        if last >= fewest:
            shown = tuple(turns[first : last + 1])
            yield Window(document, (Session("", shown[0].start, shown),), shown, shown[0].start, repeated)
        first = last + 1


def _can_begin(turn: Turn) -> bool:
    """True for a turn that can name a window: "Mm-hmm." and a tool's record cannot."""
    return len(told(turn)) >= MIN_WORDS and not is_machine(turn.speaker)


def _window_characters(longest: int, chance: random.Random) -> int:
    share = chance.random()
    for up_to, low, high in (_SHORT, _MEDIUM):
        if share < up_to:
            return chance.randint(low, high)
    # Log-uniform; where very long ones are asked for, half of these are longer than usual.
    shortest, most = _LONG[1], longest
    if longest > USUAL_LONGEST:
        shortest, most = chance.choice([(shortest, USUAL_LONGEST), (USUAL_LONGEST, longest)])
    return int(shortest * (most / shortest) ** chance.random())


def askable(turn: Turn, most_words: int = MAX_WORDS) -> bool:
    """True for a turn that can be repeated word for word: one line of plain words, neither a grunt nor a speech."""
    words = turn.text.split()
    return (
        turn.is_one_line
        and MIN_WORDS <= len(words) <= most_words
        and not MARKS.intersection(turn.text)
        and any(len(word) > 3 for word in words)
        and len(told(turn)) >= MIN_WORDS
    )


def told(turn: Turn) -> list[str]:
    """The words of a turn that are no fillers ("Mm - hmm.")."""
    words = (word.strip(string.punctuation).lower() for word in turn.text.split())
    return [word for word in words if word and word not in FILLERS]


def is_quotable(window: Window, turn: Turn) -> bool:
    """True if the turn's words occur once in the whole document, so that quoting them names one turn."""
    said = turn.text
    if len(said.split()) < 4 or said in window.repeated:  # the latter is quick, the search is not
        return False
    text = window.document.text
    return text.find(said, text.find(said) + 1) < 0
