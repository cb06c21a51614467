"""A small world for self-evolution: documents with closures and their causes, and agents that answer over HTTP.

`Agents` is the script of a ScriptedChatServer: it tells proposer, solver, closed-book solver and verifier apart by their
prompts and really reads what it is sent. Single replies can be replaced by broken or hostile ones.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable

from sample_corpus import doc

from stages.common.records import Document
from stages.common.scripted_chat_server import ScriptedReply

PLACES = ["harbour", "railway", "market", "library", "bridge", "foundry"]
CAUSES = ["drifting sand", "rotten timber", "unpaid customs", "a leaking roof", "flooded meadows", "missing coal"]
TOWNS = ["Alba", "Brenta", "Corvo", "Delphin", "Estrel", "Fontan", "Garda", "Hexam"]
FACT = re.compile(r"The (\w+) of (\w+) was closed by its council because of ([\w ]+)\.")
_SPEAKERS = {
    "You write": "proposer",
    "Answer the question from the documents": "solver",
    "Answer the question from what": "closed_book",
    "You check answers": "verifier",
}


def towns(number: int = 6) -> list[Document]:
    """Chronicles of towns; every town closes its places for causes of its own order."""
    documents = []
    for index, town in enumerate(TOWNS[:number]):
        paragraphs = [f"# Chronicle of {town}"]
        for offset, place in enumerate(PLACES):
            cause = CAUSES[(index + offset) % len(CAUSES)]
            paragraphs.append(
                f"In the spring the people of {town} spoke of little else than the {place} and of its keeper.\n"
                f"The {place} of {town} was closed by its council because of {cause}. Nobody was glad about it, and "
                "many wrote long letters to the governor, who read none of them and went hunting instead."
            )
        documents.append(doc(town.lower(), "\n\n".join(paragraphs), title=f"Chronicle of {town}"))
    return documents


def role_of(request: dict) -> str:
    """Who is asked."""
    system = request["messages"][0]["content"]
    return next(role for start, role in _SPEAKERS.items() if system.startswith(start))


class Agents:
    """Calls by role in `calls`. `replace[role]` (called with the request and its number) may return another reply."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.replace: dict[str, Callable[[dict, int], str | ScriptedReply | None]] = {}
        self._lock = threading.Lock()

    def __call__(self, request: dict) -> str | ScriptedReply:
        role = role_of(request)
        with self._lock:
            number = self.calls[role]
            self.calls[role] += 1
        other = self.replace.get(role, lambda request, number: None)(request, number)
        return getattr(self, f"_{role}")(request["messages"][1]["content"]) if other is None else other

    def _proposer(self, text: str) -> str:
        return json.dumps({"questions": proposals(text)})

    def _solver(self, text: str) -> str:
        return json.dumps({"answer": _cause(text) or "unknown"})

    def _closed_book(self, text: str) -> str:
        return json.dumps({"answer": "unknown"})

    def _verifier(self, text: str) -> str:
        return "I compared them.\n[[NO]]"


def proposals(text: str) -> list[dict]:
    """Three good questions about what has not been asked yet; with several documents each quotes two."""
    documents = re.findall(r'<document number="(\d+)"[^>]*>\n(.*?)\n</document>', text, re.DOTALL)
    written = text.partition("<written>")[2]
    found = []
    for number, body in documents:
        for match in FACT.finditer(body):
            question = f"For which reason did the council of {match[2]} close the town's {match[1]}?"
            if question in written:
                continue
            quotes = [{"document": int(number), "text": match[0]}]
            for other, other_body in documents:
                if other != number and (extra := FACT.search(other_body)):
                    quotes.append({"document": int(other), "text": extra[0]})
                    break
            found.append({"question": question, "answer": match[3], "quotes": quotes})
    return found[:3]


def _cause(text: str) -> str | None:
    asked = re.search(r"council of (\w+) close the town's (\w+)\?", text.partition("<question>")[2])
    for match in FACT.finditer(text):
        if asked and (match[2], match[1]) == (asked[1], asked[2]):
            return match[3]
    return None
