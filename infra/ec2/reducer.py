"""What to do next with a run: a pure function of its state and of what was seen. The controller is a thin shell round it.

    PLANNED -> LAUNCHING -> WATCHING -> ENDING -> PLANNED (next attempt) | CLOSED

Invariants (checked by a model in tests): at most one attempt has instances; reserved + spent never exceed the budget;
CLOSED only when no instance is alive and no launch is unresolved; a result, once there, is the outcome.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from infra.ec2.budget import affordable, cost_usd, worst_case_usd
from infra.ec2.shortage import also_hit
from infra.ec2.spec import RunSpec

Phase = Literal["planned", "launching", "watching", "ending", "closed"]
# Ends that are nobody's fault: another attempt goes on from the last checkpoint.
RETRIED = frozenset({"interrupted", "preflight", "lost"})
SEARCH_PAUSE_SECONDS = 30.0
SELF_END_SECONDS = 60.0  # an instance that has reported its end powers off; after that it is terminated
REPEAT_POLLS = 3  # between two TerminateInstances for the same instances


@dataclass(frozen=True)
class State:
    """Where a run stands. Times are seconds since the epoch."""

    phase: Phase = "planned"
    attempt: int = 0
    intent: int = 0  # number of the launch within the attempt
    candidate: int = 0  # its place in the spec
    searching_since: float = 0.0
    launch_after: float = 0.0
    instances: tuple[str, ...] = ()
    image: str = ""  # machine image of the latest instances
    launched: float = 0.0
    beat: float = 0.0  # when the last new heartbeat was seen
    beat_seq: int = 0
    asked_to_stop: float = 0.0
    terminated: float = 0.0  # when TerminateInstances was last asked for
    ended_since: float = 0.0
    attempt_reason: str = ""
    last_failure: str = ""
    equal_failures: int = 0
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    outcome: str = ""  # set once: what the run comes to
    message: str = ""
    history: tuple[str, ...] = ()
    skip: tuple[int, ...] = ()  # places that an answer to another candidate ruled out, until the search begins anew
    passed_over: tuple[str, ...] = ()  # candidates that were not to be had, and why; each once in an attempt

    def as_json(self) -> dict[str, Any]:
        """For state.json."""
        return asdict(self)

    @classmethod
    def of_json(cls, raw: dict[str, Any]) -> State:
        """From state.json."""
        lists = ("instances", "history", "skip", "passed_over")
        return cls(**{**raw, **{name: tuple(raw.get(name, ())) for name in lists}})


@dataclass(frozen=True)
class Seen:
    """One look at the world. alive: instances of the run, by tag, that are not terminated, in every region it may use."""

    now: float
    alive: tuple[str, ...] = ()
    launched: tuple[str, ...] | None = None  # answer to Launch: instances; () no capacity; None: nothing was asked
    image: str = ""  # with instances: their machine image
    shortage: str = ""  # with an empty answer: its error code
    ran: bool = False  # with an empty answer: the attempt had an instance all the same, which was heard of and is gone
    taken: bool = False  # the cloud took the attempt's instances away, or they broke
    refused: str = ""  # why a launch can never work
    beat_seq: int = 0
    exit: dict[str, Any] | None = None
    result: bool = False
    cancel: bool = False


@dataclass(frozen=True)
class Action:
    """launch, terminate, poison or close."""

    kind: Literal["launch", "terminate", "poison", "close"]
    values: dict[str, Any] = field(default_factory=dict)


def step(spec: RunSpec, state: State, seen: Seen) -> tuple[State, list[Action]]:
    """The next state, and what to do for it. Idempotent actions: a controller may die between any two of them."""
    handlers = {"planned": _planned, "launching": _launching, "watching": _watching, "ending": _ending}
    if state.phase == "closed":
        return state, []
    if seen.cancel and not state.outcome and not seen.result:
        state = replace(state, outcome="cancelled", message="by request")
    if seen.result and state.outcome != "succeeded" and state.phase != "planned":
        state = replace(state, outcome="succeeded", message="")
    return handlers[state.phase](spec, state, seen)


def _planned(spec: RunSpec, state: State, seen: Seen) -> tuple[State, list[Action]]:
    if seen.alive:  # left by a launch that nobody remembers: ended before another attempt
        return _terminate(spec, state, seen)
    if seen.result:
        return _close(replace(state, outcome="succeeded", message=""))
    if state.outcome:
        return _close(state)
    if state.attempt >= spec.stopping.max_attempts:
        return _close(replace(state, outcome="failed", message=f"{state.attempt} attempts, none succeeded"))
    places = affordable(spec, state.spent_usd)
    if not places:
        left = spec.budget_usd - state.spent_usd
        return _close(replace(state, outcome="budget", message=f"{left:.2f} USD are left, no candidate fits into that"))
    begun = replace(
        state,
        phase="launching",
        attempt=state.attempt + 1,
        intent=0,
        searching_since=seen.now,
        instances=(),
        launched=0.0,
        asked_to_stop=0.0,
        terminated=0.0,
        ended_since=0.0,
        attempt_reason="",
        skip=(),
    )
    dear = [number for number in range(len(spec.candidates)) if number not in places]
    dearer = f"could cost more than the {spec.budget_usd - state.spent_usd:.2f} USD that are left"
    return _launch(spec, _pass_over(spec, begun, dear, dearer), places[0])


def _pass_over(spec: RunSpec, state: State, places: list[int], why: str) -> State:
    """Note candidates that are not taken."""
    lines = [f"attempt {state.attempt}: {spec.candidates[place].key}: {why}" for place in places]
    new = tuple(line for line in lines if line not in state.passed_over)
    return replace(state, passed_over=(*state.passed_over, *new))


def _launch(spec: RunSpec, state: State, place: int) -> tuple[State, list[Action]]:
    state = replace(
        state,
        intent=state.intent + 1,
        candidate=place,
        reserved_usd=worst_case_usd(spec, spec.candidates[place]),
    )
    return state, [Action("launch", {"attempt": state.attempt, "intent": state.intent, "candidate": place})]


def _launching(spec: RunSpec, state: State, seen: Seen) -> tuple[State, list[Action]]:
    again = Action("launch", {"attempt": state.attempt, "intent": state.intent, "candidate": state.candidate})
    if seen.refused:
        failed = replace(state, outcome=state.outcome or "refused", message=state.message or seen.refused)
        return replace(failed, phase="ending", ended_since=seen.now, reserved_usd=0.0), []
    if seen.launched is None:
        if state.launch_after and seen.now < state.launch_after and not state.outcome:
            return state, []
        if state.launch_after:  # a pause between two rounds is over
            state = replace(state, launch_after=0.0, skip=())
            if state.outcome:
                return replace(state, phase="ending", ended_since=seen.now), []
            return _launch(spec, state, affordable(spec, state.spent_usd)[0])
        return state, [again]  # resolve it, whatever else is wanted: it may have made an instance
    if seen.launched or seen.ran:  # what an instance left in the bucket decides, before anything else is launched
        since = seen.now if seen.launched else state.searching_since
        begun = replace(state, instances=seen.launched, image=seen.image or state.image, launched=since)
        return replace(begun, phase="watching", beat=seen.now, beat_seq=0), []
    state = _without(spec, replace(state, reserved_usd=0.0), seen.shortage or "no capacity")
    if state.outcome:
        return replace(state, phase="ending", ended_since=seen.now), []
    later = [
        place for place in affordable(spec, state.spent_usd) if place > state.candidate and place not in state.skip
    ]
    if later:
        return _launch(spec, state, later[0])
    if seen.now - state.searching_since >= spec.stopping.pending_seconds:
        waited = f"no capacity in {len(spec.candidates)} candidates for {seen.now - state.searching_since:.0f} s"
        return replace(state, phase="ending", ended_since=seen.now, outcome="no_capacity", message=waited), []
    pause = min(SEARCH_PAUSE_SECONDS, spec.stopping.pending_seconds / 4)
    return replace(state, launch_after=seen.now + pause), []


def _without(spec: RunSpec, state: State, code: str) -> State:
    """The candidate was not to be had: it and those that the same answer rules out are noted, and the latter not asked for."""
    others = [place for place in also_hit(code, spec.candidates, state.candidate) if place not in state.skip]
    state = _pass_over(spec, state, [state.candidate], code)
    later = [place for place in others if place > state.candidate]
    state = _pass_over(spec, state, later, f"not asked for after {code} of {spec.candidates[state.candidate].key}")
    return replace(state, skip=(*state.skip, *others))


def _watching(spec: RunSpec, state: State, seen: Seen) -> tuple[State, list[Action]]:
    if seen.beat_seq != state.beat_seq:
        state = replace(state, beat=seen.now, beat_seq=seen.beat_seq)
    ending = replace(state, phase="ending", ended_since=seen.now)
    if seen.result:
        return replace(ending, attempt_reason="succeeded"), []
    if seen.exit is not None:
        return _attempt_ended(spec, ending, seen.exit), []
    mine = [name for name in state.instances if name in seen.alive]
    if not mine:
        return replace(ending, attempt_reason="lost"), []
    if state.outcome == "cancelled" and not state.asked_to_stop:
        return replace(state, asked_to_stop=seen.now), [
            Action("poison", {"attempt": state.attempt, "reason": "cancelled"})
        ]
    silent = seen.now - state.beat
    limit = spec.stopping.silence_seconds if state.beat_seq else spec.stopping.boot_seconds
    late = state.asked_to_stop and seen.now - state.asked_to_stop > spec.stopping.grace_seconds + SELF_END_SECONDS
    if silent > limit or late or seen.now - state.launched > spec.stopping.hard_cap_seconds:
        return _terminate(spec, replace(ending, attempt_reason="lost"), seen)
    return state, []


def _attempt_ended(spec: RunSpec, state: State, record: dict[str, Any]) -> State:
    """What the node's own account means for the run."""
    reason, message = str(record.get("reason", "")), str(record.get("message", ""))
    state = replace(state, attempt_reason=reason)
    if state.outcome or reason in RETRIED:
        return state
    if reason in {"infra", "superseded"}:
        equal = state.equal_failures + 1 if message == state.last_failure else 1
        state = replace(state, last_failure=message, equal_failures=equal)
        if equal < spec.stopping.max_infra_failures:
            return state
        return replace(state, outcome="infra", message=f"{equal} times in a row: {message}")
    return replace(state, outcome=reason or "failed", message=message)


def _ending(spec: RunSpec, state: State, seen: Seen) -> tuple[State, list[Action]]:
    """Until nothing of the attempt is left; only then the next one, or the end."""
    if seen.alive:
        own = state.attempt_reason not in {"", "lost"} and seen.now - state.ended_since < SELF_END_SECONDS
        return (state, []) if own else _terminate(spec, state, seen)
    if state.attempt_reason == "lost" and seen.exit is not None and not state.outcome:
        state = _attempt_ended(spec, state, seen.exit)  # it was written after all
    if state.attempt_reason == "lost" and not (state.beat_seq or seen.taken or state.outcome):
        state = _attempt_ended(
            spec, state, {"reason": "infra", "message": "the instance ended before its agent reported"}
        )
    candidate = spec.candidates[state.candidate]
    cost = cost_usd(spec, candidate, seen.now - state.launched) if state.launched else 0.0
    line = f"attempt {state.attempt}: {candidate.key} {','.join(state.instances) or '-'} {state.attempt_reason or state.outcome}"
    settled = replace(
        state,
        phase="planned",
        instances=(),
        spent_usd=state.spent_usd + cost,
        reserved_usd=0.0,
        history=(*state.history, line),
    )
    return _close(settled) if settled.outcome else (settled, [])


def _terminate(spec: RunSpec, state: State, seen: Seen) -> tuple[State, list[Action]]:
    """Ask again and again: a refused call is no end."""
    if state.terminated and seen.now - state.terminated < REPEAT_POLLS * spec.rhythm.poll_seconds:
        return state, []
    return replace(state, terminated=seen.now), [Action("terminate", {"instances": list(seen.alive)})]


def _close(state: State) -> tuple[State, list[Action]]:
    return replace(state, phase="closed"), [Action("close", {"outcome": state.outcome, "message": state.message})]
