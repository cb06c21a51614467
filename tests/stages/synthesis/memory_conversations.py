"""Conversations made by hand, and the questions that a family asks about them."""

import json
import random

from sample_corpus import doc

from stages.common.records import Category
from stages.synthesis.config import DialogueConfig
from stages.synthesis.memory_asking import Ask
from stages.synthesis.rederive import rederive
from stages.synthesis.sessions import sessions_of
from stages.synthesis.windows import Window

LONGEST = 60_000


def wanted(questions, longest=LONGEST):
    return DialogueConfig(questions=questions, min_questions=1, max_window_characters=longest)


CAFE = """# Coffee orders, batch 1

## Dialogue dlg-11a2b3c4

user: Could I have a large mocha for Laura please?
assistant: Is that correct on the screen?
user: No, I actually want it decaf.
assistant: Then it is ready in a minute.

## Dialogue dlg-22a2b3c4

user: What goes into a cortado here?
assistant: One espresso with some warm oat milk.

## Dialogue dlg-33a2b3c4

user: Two lattes with oat milk today.
assistant: They are waiting beside the window.

## Dialogue dlg-44a2b3c4

user: My order number is 48213 and the name is Peterson.
assistant: Your mocha stands at the counter.
"""


def record(status, city="Austin", **more):
    return json.dumps({"order_id": "#W55", "status": status, "address": {"city": city}, **more})


SHOP = f"""# Session 1

user: Where does my order #W55 stand at the moment?
tool: {record("pending", total=312.5)}
assistant: It is still pending, as I can see.

# Session 2

user: Please cancel the order right away.
tool: {record("cancelled", total=312.5)}
assistant: That is done, the money comes back.
user: Another one was #W77, how much was that?
tool: {{"order_id": "#W77", "status": "delivered", "address": {{"city": "Boston"}}, "total": 89.25}}
"""

MEETING = """# Meeting 7

[0] Ann Lee: We will start with the budget for Rubber Works today.
[1] Bob Marsh: The colour of the case was yellow last time.
[2] Cleo Hunt: Nobody asked for yellow anyway, I think.
[3] Ann Lee: The budget leaves 12500 for each prototype now.
[4] Bob Marsh: Then let us ask Jennifer about the new battery.
[5] Cleo Hunt: My budget for paint is gone already.
[6] Bob Marsh: We can finish this part by next Tuesday then.
"""


def window_of(text, name="talk", title="Talk"):
    """All sessions of a text as one window."""
    sessions = tuple(sessions_of(text))
    document = doc(name, text, Category.DIALOGUES, title)
    return Window(document, sessions, tuple(turn for one in sessions for turn in one.turns), sessions[0].start)


def asked(family, text, tries=40, others=()):
    """All different sound questions of a family about a text, over many seeds."""
    window = window_of(text)
    pairs = [family(Ask(window, random.Random(seed), 1, others)) for seed in range(tries)]
    found = {pair.id: pair for pair in pairs if pair is not None}
    return [pair for pair in found.values() if rederive(pair, window.read) == pair.answer]


def answers(pairs, part=""):
    return {pair.answer for pair in pairs if part in pair.question}
