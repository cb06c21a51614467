"""The reducer against a model of the world: instances that start, vanish, hang, and a controller that may die at any time."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from infra.ec2.budget import worst_case_usd
from infra.ec2.reducer import Action, Seen, State, step
from infra.ec2.spec import Candidate, RunSpec, Stopping


def candidate(zone="us-east-1a", usd=3.0):
    return Candidate(market="spot", instance_type="g5.xlarge", region="us-east-1", zone=zone, hourly_usd=usd)


def run_spec(**changes):
    values = {
        "run_id": "test-run", "stage": "toy", "bucket": "b", "bucket_region": "us-east-1", "budget_usd": 20.0,
        "image_parameter": "/image", "instance_profile": "node",
        "candidates": (candidate(), candidate("us-east-1b", 6.0)),
        "stopping": Stopping(hard_cap_seconds=3600, pending_seconds=300, max_attempts=6, silence_seconds=30, boot_seconds=60),
    }  # fmt: skip
    return RunSpec(**{**values, **changes})


SPEC = run_spec()


def kinds(actions):
    return [action.kind for action in actions]


def started(seen_at=0.0):
    state, actions = step(SPEC, State(), Seen(now=seen_at))
    assert kinds(actions) == ["launch"]
    state, actions = step(SPEC, state, Seen(now=seen_at + 1, launched=("i-1",), alive=("i-1",)))
    assert (state.phase, actions) == ("watching", [])
    return state


def test_missing_capacity_takes_the_next_candidate_then_waits_then_gives_up():
    state, _ = step(SPEC, State(), Seen(now=0))
    state, actions = step(SPEC, state, Seen(now=1, launched=()))
    assert actions == [Action("launch", {"attempt": 1, "intent": 2, "candidate": 1})]
    state, actions = step(SPEC, state, Seen(now=2, launched=()))
    assert actions == []
    assert step(SPEC, state, Seen(now=3))[1] == []
    state, actions = step(SPEC, state, Seen(now=40))
    assert actions == [Action("launch", {"attempt": 1, "intent": 3, "candidate": 0})]
    state, _ = step(SPEC, state, Seen(now=301, launched=()))
    state, _ = step(SPEC, state, Seen(now=302, launched=()))
    assert (state.phase, state.outcome) == ("ending", "no_capacity")
    state, actions = step(SPEC, state, Seen(now=303))
    assert (state.phase, kinds(actions), state.attempt) == ("closed", ["close"], 1)


def wide(*kinds):
    """A run with candidates of (market, type, zone)."""
    return run_spec(
        budget_usd=1000.0,
        candidates=tuple(
            Candidate(market=market, instance_type=name, region=zone[:-1], zone=zone, hourly_usd=1.0)
            for market, name, zone in kinds
        ),
    )


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("InsufficientInstanceCapacity", [0, 1, 2, 3, 4]),
        ("VcpuLimitExceeded", [0, 2, 3, 4]),  # the other zone of the same region and market is not asked
        ("Unsupported", [0, 1, 3, 4]),  # this type is not in this zone, however it is paid
        ("InsufficientFreeAddressesInSubnet", [0, 1, 4]),  # the zone's subnet is full, for any type
    ],
)
def test_one_answer_rules_out_every_candidate_that_it_is_about(code, asked):
    spec = wide(
        ("spot", "p5.48xlarge", "us-east-1a"),
        ("spot", "p5.4xlarge", "us-east-1b"),
        ("on-demand", "p5.48xlarge", "us-east-1a"),
        ("on-demand", "g5.xlarge", "us-east-1a"),
        ("spot", "p5.48xlarge", "us-west-2a"),
    )
    state, actions = step(spec, State(), Seen(now=0))
    tried, codes = [], iter([code])
    while actions:
        tried.append(actions[0].values["candidate"])
        state, actions = step(
            spec, state, Seen(now=1, launched=(), shortage=next(codes, "InsufficientInstanceCapacity"))
        )
    assert tried == asked
    told = [line for line in state.passed_over if "not asked for" in line]
    ruled_out = [spec.candidates[place].key for place in range(5) if place not in asked]
    assert told == [f"attempt 1: {key}: not asked for after {code} of spot-p5.48xlarge-us-east-1a" for key in ruled_out]
    assert f"attempt 1: spot-p5.48xlarge-us-east-1a: {code}" in state.passed_over
    state, actions = step(spec, state, Seen(now=100))  # the next round begins with everything again
    _, actions = step(spec, state, Seen(now=101, launched=(), shortage="InsufficientInstanceCapacity"))
    assert actions[0].values["candidate"] == 1


def test_a_candidate_that_the_budget_does_not_bear_is_told():
    spec = run_spec(budget_usd=5.0)
    state, _ = step(spec, State(), Seen(now=0))
    assert state.passed_over == (
        "attempt 1: spot-g5.xlarge-us-east-1b: could cost more than the 5.00 USD that are left",
    )


def test_a_launch_that_is_not_resolved_is_asked_again_even_after_a_cancellation():
    state, actions = step(SPEC, State(), Seen(now=0))
    assert step(SPEC, state, Seen(now=1, cancel=True))[1] == actions


def test_an_interruption_is_followed_by_the_next_attempt_only_when_nothing_is_left():
    state = started()
    state, actions = step(SPEC, state, Seen(now=9, alive=("i-1",), exit={"reason": "interrupted"}))
    assert (state.phase, actions) == ("ending", [])
    assert step(SPEC, state, Seen(now=10, alive=("i-1",)))[0].phase == "ending"
    state, _ = step(SPEC, state, Seen(now=11))
    assert (state.phase, state.spent_usd) == ("planned", pytest.approx(3.0 * 10 / 3600))
    state, actions = step(SPEC, state, Seen(now=12))
    assert actions[0].values["attempt"] == 2


@pytest.mark.parametrize("reason", ["failed", "timed_out", "out_of_memory", "disk_full"])
def test_what_would_happen_again_is_not_repeated(reason):
    state, _ = step(SPEC, started(), Seen(now=9, alive=("i-1",), exit={"reason": reason, "message": "m"}))
    state, actions = step(SPEC, state, Seen(now=10))
    assert (state.phase, state.outcome, kinds(actions)) == ("closed", reason, ["close"])


def test_silence_ends_an_instance_and_booting_has_a_limit_of_its_own():
    state, actions = step(SPEC, started(), Seen(now=40, alive=("i-1",)))
    assert actions == []  # still booting: 60 s
    state, _ = step(SPEC, state, Seen(now=41, alive=("i-1",), beat_seq=1))
    assert step(SPEC, state, Seen(now=70, alive=("i-1",), beat_seq=1))[1] == []
    state, actions = step(SPEC, state, Seen(now=72, alive=("i-1",), beat_seq=1))
    assert (kinds(actions), state.attempt_reason) == (["terminate"], "lost")


def test_a_refused_termination_is_repeated_and_never_closed():
    state = started()
    state, _ = step(SPEC, state, Seen(now=2, alive=("i-1",), beat_seq=1))
    asked = 0
    for now in range(40, 200, 5):
        state, actions = step(SPEC, state, Seen(now=now, alive=("i-1",), beat_seq=1))
        asked += kinds(actions).count("terminate")
        assert state.phase == "ending"
    assert asked >= 10


def test_two_equal_failures_of_the_set_up_end_the_run_and_different_ones_do_not():
    def fail(state, now, message):
        state, _ = step(SPEC, state, Seen(now=now, alive=("i-1",), exit={"reason": "infra", "message": message}))
        state, _ = step(SPEC, state, Seen(now=now + 1))
        if state.phase == "closed":
            return state
        state, _ = step(SPEC, state, Seen(now=now + 2))
        return step(SPEC, state, Seen(now=now + 3, launched=("i-1",), alive=("i-1",)))[0]

    state = fail(fail(started(), 10, "404"), 20, "bad wheel")
    assert state.phase == "watching"
    state = fail(state, 30, "bad wheel")
    assert (state.phase, state.outcome) == ("closed", "infra")


def test_an_instance_that_ends_before_its_agent_reports_is_a_failure_of_the_set_up_unless_the_cloud_took_it():
    lost, _ = step(SPEC, started(), Seen(now=5))
    assert step(SPEC, lost, Seen(now=6))[0].equal_failures == 1
    assert step(SPEC, lost, Seen(now=6, taken=True))[0].equal_failures == 0


def test_an_attempt_that_was_heard_of_is_not_launched_again_though_nothing_of_it_is_listed():
    state, _ = step(SPEC, State(), Seen(now=2))
    state, actions = step(SPEC, state, Seen(now=60, launched=(), ran=True))
    assert (state.phase, actions) == ("watching", [])
    done, _ = step(SPEC, state, Seen(now=61, result=True))
    done, actions = step(SPEC, done, Seen(now=62, result=True))
    assert (done.outcome, kinds(actions), done.attempt) == ("succeeded", ["close"], 1)
    assert done.spent_usd == pytest.approx(3.0 * 60 / 3600)  # it may have lived since the search began
    lost, _ = step(SPEC, state, Seen(now=61))
    lost, _ = step(SPEC, lost, Seen(now=62))
    assert (lost.phase, lost.attempt, lost.reserved_usd) == ("planned", 1, 0.0)


def test_nothing_is_launched_that_the_budget_does_not_bear():
    poor = run_spec(budget_usd=2.9)
    state, actions = step(poor, State(), Seen(now=0))
    assert (state.outcome, kinds(actions)) == ("budget", ["close"])
    only_cheap = run_spec(budget_usd=5.0)
    state, actions = step(only_cheap, State(), Seen(now=0))
    state, actions = step(only_cheap, state, Seen(now=1, launched=()))
    assert kinds(actions) == []  # the second candidate would cost up to 6 USD


def test_a_state_survives_its_file():
    state = replace(started(), history=("a",))
    assert State.of_json(state.as_json()) == state


class World(RuleBasedStateMachine):
    """Instances live or not; the controller sees some of it, acts, and may die before it acts."""

    @initialize()
    def begin(self):
        self.state, self.now, self.alive, self.made = State(), 0.0, {}, 0
        self.intents, self.pending, self.launched, self.ran = {}, [], None, False
        self.exit, self.result, self.cancel, self.seq, self.closed = None, False, False, 0, 0
        self.epoch, self.reported, self.written, self.code = 0, set(), [], ""

    @rule(seconds=st.sampled_from([1.0, 10.0, 100.0, 1000.0]))
    def look(self, seconds):
        self.now += seconds
        mine = self.state.instances
        taken = bool(mine) and not any(name in self.alive for name in mine)
        watching = self.state.phase in {"watching", "ending"}
        seen = Seen(
            now=self.now,
            alive=tuple(self.alive),
            launched=self.launched,
            shortage=self.code,
            ran=self.ran,
            taken=taken,
            beat_seq=self.seq,
            exit=self.exit if watching else None,
            result=self.result,
            cancel=self.cancel,
        )
        before = self.state
        self.state, self.pending = step(SPEC, before, seen)
        self.launched, self.ran = None, False
        if self.state.attempt != before.attempt:
            self.exit, self.seq = None, 0
        if self.state.phase == "closed" and before.phase != "closed":
            self.closed += 1
            assert not self.alive
            assert self.state.outcome
            assert not self.result or self.state.outcome == "succeeded"

    @precondition(lambda self: self.pending)
    @rule(
        capacity=st.booleans(), answered=st.booleans(), listed=st.booleans(),
        code=st.sampled_from(["InsufficientInstanceCapacity", "VcpuLimitExceeded", "Unsupported"]),
    )  # fmt: skip
    def act(self, capacity, answered, listed, code):
        self.code = code
        for action in self.pending:
            if action.kind == "launch":
                intent = (action.values["attempt"], action.values["intent"])
                if intent not in self.intents:
                    assert not self.written, "work that is done is not launched again"
                    self.intents[intent] = ()
                    self.epoch = intent[0]  # stored before the call: nodes of older attempts write nothing
                    if capacity:
                        self.made += 1
                        self.intents[intent] = (f"i-{self.made}",)
                        self.alive[f"i-{self.made}"] = intent[0]
                if answered:
                    self.launched = self.intents[intent]
                    if not listed and self.launched and self.launched[0] not in self.alive:
                        self.launched, self.ran = (), True  # it has ended, and is not even listed any more
            elif action.kind == "terminate" and answered:
                for name in action.values["instances"]:
                    self.alive.pop(name, None)
        self.pending = []

    @rule()
    def controller_dies(self):
        self.pending, self.launched, self.ran = [], None, False
        self.state = State.of_json(self.state.as_json())

    @precondition(lambda self: self.alive)
    @rule()
    def instance_dies(self):
        self.alive.popitem()

    @precondition(lambda self: self.alive and self.state.phase == "watching" and not self.reported & set(self.alive))
    @rule(reason=st.sampled_from(["interrupted", "failed", "infra", "preflight", "timed_out"]))
    def node_reports(self, reason):
        self.exit = self.exit or {"reason": reason, "message": "m"}
        self.reported |= set(self.alive)  # a node reports once, and a result is not what follows a failure

    @precondition(lambda self: self.alive)
    @rule(told=st.booleans(), powers_off=st.booleans())
    def node_succeeds(self, told, powers_off):
        """Any instance, whether its launch was answered or not, whatever the controller does just now.

        The storage here would take a second result: that there is one is the reducer's doing, and the epoch's.
        """
        name = min(self.alive)
        attempt = self.alive[name]
        if attempt != self.epoch or name in self.reported:
            return
        self.reported.add(name)
        self.written.append(name)
        self.result = True
        if told and attempt == self.state.attempt:
            self.exit = self.exit or {"reason": "succeeded", "message": ""}
        if powers_off:
            del self.alive[name]

    @precondition(lambda self: self.alive)
    @rule()
    def node_beats(self):
        self.seq += 1

    @precondition(lambda self: self.state.attempt > 1)  # or else few worlds come to a second attempt
    @rule()
    def user_cancels(self):
        self.cancel = True

    @invariant()
    def at_most_one_attempt_lives(self):
        if hasattr(self, "alive"):
            assert len(set(self.alive.values())) <= 1

    @invariant()
    def the_budget_holds(self):
        if hasattr(self, "state"):
            assert self.state.spent_usd + self.state.reserved_usd <= SPEC.budget_usd + 1e-9

    @invariant()
    def an_attempt_has_one_instance(self):
        if hasattr(self, "intents"):
            attempts = [attempt for (attempt, _), names in self.intents.items() if names]
            assert len(attempts) == len(set(attempts))

    @invariant()
    def a_result_is_written_once_and_is_the_outcome(self):
        if hasattr(self, "written"):
            assert len(self.written) <= 1
            if self.written and self.state.phase == "closed":
                assert self.state.outcome == "succeeded"

    @invariant()
    def it_is_closed_once(self):
        if hasattr(self, "closed"):
            assert self.closed <= 1


World.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase


def test_the_worst_case_is_the_hard_cap():
    assert worst_case_usd(SPEC, SPEC.candidates[1]) == 6.0
