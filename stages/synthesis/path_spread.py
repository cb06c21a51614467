"""How far multi-hop questions reach: documents per hop, and how many describe something vaguely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.common.records import QAPair


def spread_of(questions: Sequence[QAPair]) -> dict[str, Any]:
    """Figures over all questions.

    documents_per_hop: mean over questions of documents / hops, at most 1. Documents are those that a hop's own fact is read from;
    the rest of a ranked group does not count. one_document, as_many_documents_as_hops, vague: shares of the questions.
    vague_kinds: questions with a vague description of the kind.
    """
    count = max(1, len(questions))
    proofs = [qa.proof for qa in questions]
    documents = [len(set(documents_read(proof))) for proof in proofs]
    hops = [int(proof["hop_count"]) for proof in proofs]
    pairs = list(zip(documents, hops, strict=True))
    kinds = Counter(kind for proof in proofs for kind in sorted(set(vague_kinds(proof))))
    return {
        "documents_per_hop": round(sum(min(1.0, found / wanted) for found, wanted in pairs) / count, 4),
        "one_document": round(sum(found == 1 for found in documents) / count, 4),
        "as_many_documents_as_hops": round(sum(found >= wanted for found, wanted in pairs) / count, 4),
        "vague": round(sum(any(True for _ in vague_kinds(proof)) for proof in proofs) / count, 4),
        "vague_kinds": dict(sorted(kinds.items())),
    }


def documents_read(proof: Mapping[str, Any]) -> Iterator[str]:
    """The documents of a proof's facts. A ranked entity's own value is among those of its group: the one that the next hop needs."""
    used = {str(hop.get("from", "")) for hop in proof["hops"]} | {
        str(row["entity"]) for hop in proof["hops"] if hop["op"] != "rank" for row in hop.get("rows", ())
    }
    for hop in proof["hops"]:
        rows = [hop["row"]] if "row" in hop and hop["op"] != "alias" else list(hop.get("rows", ()))
        if hop["op"] == "rank":
            rows = [row for row in rows if row["entity"] in used][:1]
        yield from (str(row["document_id"]) for row in rows)


def vague_kinds(proof: Mapping[str, Any]) -> Iterator[str]:
    """The kind of each vague description: a value told by its decade, size or initials, or a place in an order."""
    for hop in proof["hops"]:
        if "vague" in hop:
            yield str(hop["vague"]["kind"])
        elif hop["op"] in ("rank", "pick"):
            yield str(hop["kind"])
