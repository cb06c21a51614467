"""`longfuse plan --on ec2`: candidates in order, hourly and worst-case cost, quotas that lack."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from flows.ec2_costs import render_costs
from flows.plan import Plan, PlannedStage
from infra.ec2.resources import Account, Profile, Request, Resources
from stages.common.errors import ConfigError

TRAIN = Request(
    accelerator="H100:8", markets=("reservation", "spot", "on-demand"), regions=("us-east-1",), zones=("a", "b"),
    reservations=[{"id": "cr-1", "zone": "us-east-1f"}], runtime_hours=47, budget_usd=2000,
)  # fmt: skip
SMALL = Request(
    accelerator="cpu", markets=("on-demand",), regions=("us-west-2",), zones=("a",), runtime_hours=1, budget_usd=5
)
RESOURCES = Resources(
    account=Account(image_parameter="/image"),
    profiles={"big": Profile(stages={"sft": TRAIN, "rl@*": TRAIN, "memory_rl": SMALL})},
)


def plan_of(**actions):
    return Plan(tuple(PlannedStage(name, action, (), None, (), {}) for name, action in actions.items()), (), None)


PLAN = plan_of(ingest="run", sft="run", memory_rl="run", **{"rl@stage1": "run", "rl@stage2": "skip"})


@pytest.fixture(autouse=True)
def resources(monkeypatch):
    monkeypatch.setattr("flows.ec2_costs.load_resources", lambda: RESOURCES)


def test_candidates_stand_in_order_with_what_an_hour_and_an_attempt_cost_and_what_lacks(simulated, monkeypatch):
    for name, value in simulated.environment.items():
        monkeypatch.setenv(name, value)
    simulated.set_quota("L-C4BD4855", 191.0)
    try:
        lines = render_costs("ec2", "big", PLAN)
    finally:
        simulated.set_quota("L-C4BD4855", 384.0)
    assert lines[1] == "On EC2 (prices of 2026-08-01, estimates):"
    assert lines[2:] == [
        # 55.04 USD/h * 48 h = 2641.92 USD; spot 33.02 * 48 = 1584.96
        "  sft, rl@stage1: H100:8, an attempt ends after 48 h; at most 2000 USD for all attempts of a stage",
        "    environment train (constraints.txt)",
        "    1     reservation p5.48xlarge   us-east-1f             55.04 USD/h, an attempt at most 2641.92 USD; reservation cr-1; "
        "more than the budget: never tried",
        "    2-3   spot        p5.48xlarge   us-east-1a, b          33.02 USD/h, an attempt at most 1584.96 USD; "
        "quota L-C4BD4855 lacks: not tried",
        "    4-5   on-demand   p5.48xlarge   us-east-1a, b          55.04 USD/h, an attempt at most 2641.92 USD; "
        "more than the budget: never tried",
        "  memory_rl: cpu, an attempt ends after 2 h; at most 5 USD for all attempts of a stage",
        "    environment train (constraints.txt)",
        "    1     on-demand   m6i.xlarge    us-west-2a              0.19 USD/h, an attempt at most 0.38 USD",
        "    2     on-demand   c6i.2xlarge   us-west-2a              0.34 USD/h, an attempt at most 0.68 USD",
        "  all together at most 4005 USD",
        "  quota L-C4BD4855 (All P5 Spot Instance Requests) in us-east-1 is 191 vCPUs, 192 are needed: ask for more in the "
        "Service Quotas console",
    ]  # fmt: skip


def test_a_stage_whose_engine_is_vllm_has_a_block_and_an_environment_of_its_own():
    parameters = {"sft": {"train.engine.kind": "transformers"}, "rl@stage1": {"train": {"engine": {"kind": "vllm"}}}}
    dag = SimpleNamespace(stages={stage: SimpleNamespace(parameters=values) for stage, values in parameters.items()})
    lines = render_costs("ec2", "big", replace(plan_of(sft="run", **{"rl@stage1": "run"}), dag=dag))
    blocks = [
        (lines[n - 1].split(":")[0].strip(), line.strip()) for n, line in enumerate(lines) if " environment " in line
    ]
    assert blocks == [
        ("sft", "environment train (constraints.txt)"),
        ("rl@stage1", "environment vllm (constraints-vllm.txt)"),
    ]
    assert "  all together at most 4000 USD" in lines


def test_without_an_answer_the_plan_is_there_all_the_same(monkeypatch):
    def nobody(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr("flows.ec2_costs.missing_quotas", nobody)
    lines = render_costs("ec2", "big", PLAN)
    assert lines[-1] == "  quotas were not checked: no network"
    assert not [line for line in lines if "lacks" in line]


def test_a_profile_without_stages_there_says_so_and_another_place_is_refused():
    assert "no stage to run is named" in render_costs("ec2", "tiny", PLAN)[-1]
    with pytest.raises(ConfigError, match="only other place is ec2"):
        render_costs("moon", "big", PLAN)
