"""Re-deriving an answer from a question's evidence alone: one function per kind of proof.

`verify` drops what cannot be re-derived or comes out different. A new kind of proof is one more line here.
"""

from __future__ import annotations

from collections.abc import Callable

from stages.common.records import QAPair
from stages.synthesis.dialogue_proofs import rederive_mrcr, rederive_reply, rederive_speaker
from stages.synthesis.in_context_proofs import rederive_labels
from stages.synthesis.memory_proofs import (
    rederive_absence,
    rederive_correction,
    rederive_first_to_say,
    rederive_gap,
    rederive_last_mention,
    rederive_record_change,
    rederive_record_count,
    rederive_record_value,
    rederive_said_order,
    rederive_session_count,
    rederive_session_next,
    rederive_session_which,
    rederive_sessions_between,
)
from stages.synthesis.multiple_choice_proofs import rederive_option
from stages.synthesis.numerical_proofs import rederive_sql
from stages.synthesis.path_proofs import rederive_path
from stages.synthesis.proofs import TextOf
from stages.synthesis.reading_proofs import (
    rederive_count_list_items,
    rederive_count_methods,
    rederive_count_subsections,
    rederive_heading_after,
    rederive_last_subsection,
    rederive_method_after,
    rederive_title,
    rederive_value_under,
)
from stages.synthesis.self_evolve_proof import rederive_mase

Answer = str | list[str]

REDERIVE: dict[str, Callable[[QAPair, TextOf], Answer | None]] = {
    "sql": rederive_sql,
    "path": rederive_path,
    "option": lambda qa, text_of: rederive_option(qa, text_of, rederive),
    "mrcr": rederive_mrcr,
    "speaker_of": rederive_speaker,
    "reply_to": rederive_reply,
    "gap": rederive_gap,
    "record_value": rederive_record_value,
    "record_change": rederive_record_change,
    "record_count": rederive_record_count,
    "last_mention": rederive_last_mention,
    "correction": rederive_correction,
    "session_count": rederive_session_count,
    "session_which": rederive_session_which,
    "session_next": rederive_session_next,
    "sessions_between": rederive_sessions_between,
    "said_order": rederive_said_order,
    "first_to_say": rederive_first_to_say,
    "not_mentioned": rederive_absence,
    "heading_after": rederive_heading_after,
    "last_subsection": rederive_last_subsection,
    "count_subsections": rederive_count_subsections,
    "count_list_items": rederive_count_list_items,
    "count_methods": rederive_count_methods,
    "method_after": rederive_method_after,
    "value_under": rederive_value_under,
    "title_of": rederive_title,
    "labels": rederive_labels,
    "mase": rederive_mase,
}


def rederive(qa: QAPair, text_of: TextOf) -> Answer | None:
    """The answer that follows from the evidence spans, read through `text_of`.

    None if the proof is of an unknown kind, damaged, or does not hold: the question is to be dropped.
    """
    function = REDERIVE.get(str(qa.proof.get("kind")))
    if function is None:
        return None
    try:
        return function(qa, text_of)
    except (KeyError, TypeError, ValueError, IndexError):
        return None  # a damaged proof proves nothing
