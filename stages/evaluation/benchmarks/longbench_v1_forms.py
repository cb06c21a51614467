"""LongBench v1's official prompts (its config/dataset2prompt.json): what stands before and after the context of each task."""

from __future__ import annotations

_SHORT = (
    "Answer the question as concisely as you can, using a single phrase if possible. Do not provide any explanation."
)
_ONLY = "Only give me the answer and do not output any other words."
_PASSAGES = (
    f"Answer the question based on the given passages. {_ONLY}\n\nThe following are given passages.\n",
    f"\n\nAnswer the question based on the given passages. {_ONLY}\n\nQuestion: {{input}}\nAnswer:",
)
_QASPER = (
    "as concisely as you can, using a single phrase or sentence if possible. If the question cannot be answered based on the "
    'information in the article, write "unanswerable". If the question is a yes/no question, answer "yes", "no", or '
    '"unanswerable". Do not provide any explanation.'
)

# Task -> (before the context, after it); {input} is the row's question.
FORMS = {
    "hotpotqa": _PASSAGES,
    "2wikimqa": _PASSAGES,
    "musique": _PASSAGES,
    "narrativeqa": (
        f"You are given a story, which can be either a novel or a movie script, and a question. {_SHORT}\n\nStory: ",
        "\n\nNow, answer the question based on the story as concisely as you can, using a single phrase if possible. Do not "
        "provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
    ),
    "qasper": (
        f"You are given a scientific article and a question. Answer the question {_QASPER}\n\nArticle: ",
        f"\n\n Answer the question based on the above article {_QASPER}\n\nQuestion: {{input}}\n\nAnswer:",
    ),
    "multifieldqa_en": (
        "Read the following text and answer briefly.\n\n",
        "\n\nNow, answer the following question based on the above text, only give me the answer and do not output any other "
        "words.\n\nQuestion: {input}\nAnswer:",
    ),
    "passage_retrieval_en": (
        "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the abstract is "
        "from.\n\n",
        "\n\nThe following is an abstract.\n\n{input}\n\nPlease enter the number of the paragraph that the abstract is from. "
        'The answer format must be like "Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: ',
    ),
    "passage_count": (
        "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please carefully read these "
        "paragraphs and determine how many unique paragraphs there are after removing duplicates. In other words, how many "
        "non-repeating paragraphs are there in total?\n\n",
        "\n\nPlease enter the final count of unique paragraphs after removing duplicates. The output format should only contain "
        "the number, such as 1, 2, 3, and so on.\n\nThe final answer is: ",
    ),
}


def prompt_of(task: str, question: str) -> tuple[str, str]:
    """(before, after) of the finished prompt. The question is put in as it is, whatever braces it holds."""
    before, after = FORMS[task]
    return before, after.replace("{input}", question)
