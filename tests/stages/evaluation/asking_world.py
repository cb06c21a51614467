"""A scripted model under the evaluation engine, for the tests of this folder: what it was asked can be counted."""

from evaluation_examples import SAMPLES, stage_config

from stages.engines.scripted_engine import ByteTokenizer, ScriptedEngine
from stages.evaluation.asking import closing
from stages.evaluation.base import Question
from stages.evaluation.config import AskSettings
from stages.evaluation.evaluate import ask_settings, build_questions
from stages.evaluation.planning import plan
from stages.evaluation.session import answers_file, evaluate_planned


def oracle(prompt, request, index):
    """Reads the needle, says Oslo and 42 otherwise."""
    if "<section" in prompt:
        return "<memory>Oslo</memory><plan>none</plan>"
    if "magic number for" in prompt:
        return prompt.split(" is: ")[1][:7] if " is: " in prompt else "unknown"
    return "Oslo 42"


class Asked:
    """The outcome of one evaluation, the engines that were made and what was told on the way."""

    def __init__(self, evaluation, engines, progress):
        self.evaluation = evaluation
        self.engines = engines
        self.progress = progress

    @property
    def requests(self):
        return [request for engine in self.engines for request in engine.requests]


def ask(planned, state_dir, settings=None, script=oracle, limit=None, concurrent=0, judge=None):
    """Evaluate; KeyboardInterrupt after `limit` calls of the script, as a kill between two of them."""
    engines, calls, progress = [], [], []

    def counted(prompt, request, index):
        calls.append(prompt)
        if limit is not None and len(calls) > limit:
            raise KeyboardInterrupt
        return script(prompt, request, index)

    def make():
        engines.append(ScriptedEngine(counted))
        return engines[-1]

    settings = settings or ask_settings(stage_config())
    evaluation = evaluate_planned(
        closing(make),
        planned,
        settings,
        answers_file(state_dir, "model", settings),
        lambda item, result: progress.append((item.key, result)),
        concurrent=concurrent,
        judge=judge,
    )
    return Asked(evaluation, engines, progress)


def built(documents, config=None, samples=SAMPLES):
    return build_questions(config or stage_config(), samples, documents, ByteTokenizer())


def settings(**changes) -> AskSettings:
    return AskSettings.model_validate({**ask_settings(stage_config()).model_dump(), **changes})


def question(name="q1", gold="Oslo", context="The capital of Norway is Oslo.", **changes):
    """A question of a made-up benchmark."""
    values = {
        "benchmark": "capitals", "id": name, "task_type": "qa", "question": f"{name}: capital of Norway?",
        "answer_form": "Name only.", "gold": gold, "context": lambda: context,
        "prompt": lambda text: [{"role": "user", "content": f"{text}\n{name}: capital of Norway? Name only."}],
        "metric": "contained", "score": lambda response: float(gold in response), "answer_tokens": 20,
    }  # fmt: skip
    return Question(**{**values, **changes})


def planned(*questions, mode="full_context"):
    return [plan(item, mode) for item in questions]
