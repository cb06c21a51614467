"""From drafts to questions: bounds, evidence read from the documents, proof run again, duplicates and giveaways dropped."""

from __future__ import annotations

import re
from typing import Any

from stages.common.records import AnswerKind, Dropped, Evidence, QAPair, TaskType
from stages.common.storage import DocumentStore
from stages.common.text import collapse_blanks
from stages.synthesis.config import MultiHopConfig
from stages.synthesis.drafts import Draft
from stages.synthesis.drop_log import DropLog
from stages.synthesis.narrative import Narrator
from stages.synthesis.near_duplicates import near_duplicates
from stages.synthesis.pairs import make_pair
from stages.synthesis.path_proofs import rederive_path
from stages.synthesis.selection import Selection, evidence_text

KEPT_PER_REASON = 200
MIN_REPEATED = 3
MAX_PER_ANSWER_FACT = 3  # questions that end in one fact
MAX_PER_DESCRIPTION = 2  # questions of a family whose descriptions are the same

_WORDS = re.compile(r"\w+")


class DraftChecks:
    """Takes drafts that hold; every other one is counted with its reason, and the first ones of each can be looked at."""

    def __init__(self, narrator: Narrator, documents: DocumentStore, config: MultiHopConfig, seed: int) -> None:
        self._narrator, self._documents, self._config, self._seed = narrator, documents, config, seed
        self._facts: set[tuple[str, frozenset[int]]] = set()
        self._endings: dict[int, int] = {}
        self._descriptions: dict[tuple[str, frozenset[int]], int] = {}
        self._drops = DropLog(KEPT_PER_REASON)
        self.selection = Selection(dropped=self._drops.kept)

    def offer(self, draft: Draft) -> bool:
        """Take a draft as a question if every check holds."""
        refused = self._refusal(draft)
        if refused is not None:
            return self._refuse(draft, *refused)
        spans = self._narrator.spans([*draft.rows, *draft.links])
        length, limit = sum(end - start for _, start, end in spans), self._config.max_evidence_characters
        if limit and length > limit:
            return self._refuse(draft, "evidence_too_long", f"{length} characters, at most {limit} are wanted")
        evidence = [
            Evidence(document_id=document_id, start=start, end=end, quote=self._documents[document_id].text[start:end])
            for document_id, start, end in spans
        ]
        qa = self._question(draft, evidence)
        found = _rederived(qa)
        if found != draft.answer:
            self._drop(qa, f"the evidence gives {found!r}")
            return False
        if qa.question in self.selection.seen:
            return self._refuse(draft, "duplicate_question", "other facts gave the same words")
        self.selection.questions.append(qa)
        self.selection.seen.add(qa.question)
        described = _description_of(draft)
        self._facts.add((draft.family, frozenset(draft.rows)))
        self._endings[draft.rows[-1]] = self._endings.get(draft.rows[-1], 0) + 1
        self._descriptions[described] = self._descriptions.get(described, 0) + 1
        return True

    def close(self) -> Selection:
        """The questions, with the count of drops whose records are not kept."""
        self.selection.not_kept = self._drops.not_kept
        return self.selection

    def _refusal(self, draft: Draft) -> tuple[str, str] | None:
        """What can be seen without the documents."""
        least, most = self._config.min_hops, self._config.max_hops
        if not least <= draft.hop_count <= most:
            return "number_of_hops", f"{draft.hop_count} facts, {least} to {most} are wanted"
        if (draft.family, frozenset(draft.rows)) in self._facts:
            return "same_facts", "another question of the family joins these facts"
        if self._endings.get(draft.rows[-1], 0) >= MAX_PER_ANSWER_FACT:
            return "same_answer_fact", f"{MAX_PER_ANSWER_FACT} questions end in this fact"
        if self._descriptions.get(_description_of(draft), 0) >= MAX_PER_DESCRIPTION:
            return "same_description", f"{MAX_PER_DESCRIPTION} questions of the family describe these things"
        if answer_in_question(draft.answer, draft.question, is_number=draft.is_number):
            return "answer_in_question", f"{draft.answer!r} stands in the question"
        if _repeats_itself(draft):
            return "needs_no_reading", "a hop only repeats what the question says"
        return None

    def _refuse(self, draft: Draft, reason: str, detail: str) -> bool:
        def record() -> Dropped:
            said = {"family": draft.family, "question": draft.question, "answer": draft.answer}
            return Dropped(reason=reason, stage="synthesize", detail=detail, record=said)

        self._drops.add(reason, record)
        return False

    def drop_near_duplicates(self) -> int:
        """Take questions that ask nearly the same as an earlier one out again; returns how many."""
        repeats = near_duplicates(self.selection.questions)
        for qa in self.selection.questions:
            if qa.id in repeats:
                self._drop(qa, f"asks nearly the same as {repeats[qa.id]}", "near_duplicate")
        self.selection.questions = [qa for qa in self.selection.questions if qa.id not in repeats]
        return len(repeats)

    def _question(self, draft: Draft, evidence: list[Evidence]) -> QAPair:
        return make_pair(
            task_type=TaskType.MULTI_HOP,
            question=collapse_blanks(draft.question),
            answer=draft.answer,
            answer_kind=AnswerKind.NUMBER if draft.is_number else AnswerKind.TEXT,
            evidence=evidence,
            proof={
                "kind": "path",
                "hops": [self._filled(hop) for hop in draft.hops],
                "hop_count": draft.hop_count,
                "paradigm": draft.paradigm,
                "domain": draft.domain,
                "obfuscation": sorted(set(draft.kinds)),
            },
            generator=f"multi_hop/{draft.paradigm}/{draft.family}",
            seed=self._seed,
        )

    def _filled(self, hop: dict[str, Any]) -> dict[str, Any]:
        """List values are too long for the graph: their text is read here."""
        row = hop.get("row")
        if row is None or row["value"]:
            return hop
        text = self._documents[row["document_id"]].text[row["start"] : row["end"]]
        return {**hop, "row": {**row, "value": collapse_blanks(text)}}

    def _drop(self, qa: QAPair, detail: str, reason: str = "not_rederivable") -> None:
        self._drops.add(
            reason,
            lambda: Dropped(reason=reason, stage="synthesize", detail=detail[:300], record=qa.model_dump(mode="json")),
        )


def _description_of(draft: Draft) -> tuple[str, frozenset[int]]:
    return draft.family, frozenset(draft.rows[:-1])


def _repeats_itself(draft: Draft) -> bool:
    """True if a hop needs no reading: "the constant X in the file that sets the constant X"."""
    if any(hop["op"] == "go" and hop["to"] in draft.question for hop in draft.hops):
        return True  # "the file that defines the class `Job` in rq/job.py"
    asked = str((draft.hops[-1].get("row") or {}).get("attribute", ""))
    given = [str(hop["row"]["value"]) for hop in draft.hops if hop["op"] == "describe"]
    return any(len(value) >= MIN_REPEATED and value in asked for value in given)


def _rederived(qa: QAPair) -> str | None:
    try:
        return rederive_path(qa, evidence_text(qa))
    except (IndexError, ValueError, KeyError):
        return None


def answer_in_question(answer: str, question: str, *, is_number: bool) -> bool:
    """True if the question gives its answer away: the text, or a number written out, stands in it."""
    said = f" {' '.join(_WORDS.findall(question.lower()))} "
    words = " ".join(_WORDS.findall(answer.lower()))
    if is_number:
        return len(words) > 2 and f" {words} " in said
    return f" {words} " in said or answer.casefold() in question.casefold()
