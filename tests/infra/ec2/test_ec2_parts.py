"""Parts of the control side by themselves: errors, candidates, requests, lease, policies."""

import json
import subprocess
import threading
from collections import Counter
from types import SimpleNamespace

import botocore.exceptions
import botocore.session
import botocore.stub
import pytest
from pydantic import ValidationError

from infra.ec2.aws import Clients, ErrorClass, classify
from infra.ec2.bundle import upload_code
from infra.ec2.catalog import QUOTA_CODES, TYPES, types_for
from infra.ec2.environments import TRAIN, VLLM
from infra.ec2.launch import build_request
from infra.ec2.reaper import ReapError, reap
from infra.ec2.resources import Account, Request, candidates, load_resources, missing_quotas, within_quotas
from infra.ec2.runner import Ec2Runner, StageFacts
from infra.ec2.spec import Rhythm, digest
from infra.ec2.store import LeaseLostError, RunStore
from infra.errors import InfraError
from infra.jobs import JobSpec
from infra.sim.faults import Rule
from tests.infra.ec2.policy import statements
from tests.infra.ec2.test_reducer import run_spec


@pytest.fixture
def cloud(simulated, monkeypatch):
    for name, value in simulated.environment.items():
        monkeypatch.setenv(name, value)
    return simulated


def client_error(code, status=400):
    answer = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "RunInstances")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("InsufficientInstanceCapacity", ErrorClass.NEXT),
        ("VcpuLimitExceeded", ErrorClass.NEXT),
        ("Unsupported", ErrorClass.NEXT),
        ("RequestLimitExceeded", ErrorClass.AGAIN),
        ("InternalError", ErrorClass.AGAIN),
        ("IdempotentParameterMismatch", ErrorClass.RECONCILE),
        ("IdempotentInstanceTerminated", ErrorClass.RECONCILE),
        ("UnauthorizedOperation", ErrorClass.STOP),
        ("InvalidAMIID.NotFound", ErrorClass.STOP),
        ("ExpiredToken", ErrorClass.STOP),
        ("SomethingNobodyHasSeen", ErrorClass.STOP),
    ],
)
def test_an_error_code_says_what_to_do_and_an_unknown_one_stops(code, expected):
    assert classify(client_error(code)) is expected


def test_a_lost_connection_is_reconciled():
    assert classify(botocore.exceptions.ReadTimeoutError(endpoint_url="u")) is ErrorClass.RECONCILE


def test_candidates_come_market_by_market_then_region_then_zone():
    found = candidates(
        Request(accelerator="H100:8", regions=("us-east-1", "us-west-2"), zones=("a", "b"), budget_usd=1)
    )
    assert [(item.market, item.zone) for item in found] == [
        (market, f"{region}{zone}")
        for market in ("spot", "on-demand")
        for region in ("us-east-1", "us-west-2")
        for zone in ("a", "b")
    ]
    assert {item.instance_type for item in found} == {"p5.48xlarge"}


def test_reservations_come_first_and_only_if_there_are_any():
    asked = {"accelerator": "H100:8", "markets": ("reservation", "spot"), "zones": ("a",), "budget_usd": 1}
    assert [item.market for item in candidates(Request(**asked))] == ["spot"]
    two = [{"id": "cr-1", "zone": "us-east-1f"}, {"id": "cr-2", "zone": "eu-north-1a"}]
    asked["regions"] = ("us-east-1", "us-west-2")
    request = Request(**asked, reservations=two)
    assert [(item.market, item.reservation_id, item.region, item.zone) for item in candidates(request)] == [
        ("reservation", "cr-1", "us-east-1", "us-east-1f"),  # there and nowhere else
        ("reservation", "cr-2", "eu-north-1", "eu-north-1a"),
        ("spot", None, "us-east-1", "us-east-1a"),
        ("spot", None, "us-west-2", "us-west-2a"),
    ]
    assert request.all_regions == {"us-east-1", "us-west-2", "eu-north-1"}
    with pytest.raises(ValidationError, match="zone"):
        Request(**asked, reservations=[{"id": "cr-1", "zone": "us-east-1"}])


def test_a_reservation_and_the_security_group_of_its_region_stand_in_the_request():
    asked = Request(
        accelerator="H100:8", markets=("reservation", "spot"), regions=("us-west-2",), zones=("a",), budget_usd=1,
        reservations=[{"id": "cr-1", "zone": "us-east-1f"}],
    )  # fmt: skip
    spec = run_spec(candidates=candidates(asked), security_groups={"us-east-1": "sg-east"})
    reserved, spot = (
        build_request(spec, item, token="t", user_data="", image="ami-1", root_device="/dev/sda1", tags={})
        for item in spec.candidates
    )
    target = {"CapacityReservationTarget": {"CapacityReservationId": "cr-1"}}
    assert (reserved["Placement"], reserved["CapacityReservationSpecification"]) == (
        {"AvailabilityZone": "us-east-1f"}, target,
    )  # fmt: skip
    assert reserved["SecurityGroupIds"] == ["sg-east"]
    assert "SecurityGroupIds" not in spot  # a group of one region is none in another
    assert "CapacityReservationSpecification" not in spot


def test_an_accelerator_that_nobody_has_is_told_with_those_that_there_are():
    with pytest.raises(InfraError, match="H100:8"):
        types_for("B200:8")


def test_a_secret_is_named_as_the_policy_of_nodes_lets_them_read_it():
    (allowed,) = [item for item in statements("node") if "secretsmanager:GetSecretValue" in item["Action"]]
    assert [resource.rpartition(":")[2] for resource in allowed["Resource"]] == ["longfuse/*"]
    asked = {"accelerator": "cpu", "budget_usd": 1}
    assert Request(**asked, secrets={"JUDGE_KEY": "longfuse/judge"}).secrets == {"JUDGE_KEY": "longfuse/judge"}
    for wrong in ({"JUDGE_KEY": "sk-live-0123456789abcdef"}, {"JUDGE-KEY": "longfuse/judge"}):
        with pytest.raises(ValidationError, match="secrets"):
            Request(**asked, secrets=wrong)


def test_every_type_has_quota_codes_and_every_profile_has_candidates():
    assert {(kind.family, market) for kind in TYPES.values() for market in ("spot", "on-demand")} <= set(QUOTA_CODES)
    resources = load_resources()
    for profile in resources.profiles.values():
        for request in profile.stages.values():
            assert candidates(request)
    assert resources.request("paper_4b", "rl@stage3").accelerator == "H100:8"
    assert resources.request("paper_4b", "ingest") is None


def test_the_request_is_one_that_ec2_knows_encrypted_with_tokens_and_without_a_way_in():
    spec = run_spec(security_groups={"us-east-1": "sg-1"})
    request = build_request(
        spec,
        spec.candidates[0],
        token="t",
        user_data="#!/bin/sh",
        image="ami-1",
        root_device="/dev/sda1",
        tags={"a": "b"},
    )
    session = botocore.session.get_session()
    client = session.create_client("ec2", "us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
    with botocore.stub.Stubber(client) as stub:  # the service model refuses unknown names and types
        stub.add_response("run_instances", {"Instances": []}, request)
        client.run_instances(**request)
    assert request["MetadataOptions"]["HttpTokens"] == "required"
    assert request["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
    assert request["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert "KeyName" not in request
    assert (request["MinCount"], request["MaxCount"]) == (1, 1)


def test_a_line_is_here_within_15_seconds_by_the_periods_of_node_and_controller():
    """A chunk leaves the node and the controller looks; 5 s are left for the work itself."""
    assert Rhythm().log_seconds + Rhythm().poll_seconds <= 10.0


def test_a_spec_has_one_text():
    spec = run_spec()
    assert digest(spec.model_dump(mode="json")) == digest(json.loads(spec.model_dump_json()))


def test_of_eight_controllers_one_gets_the_lease(cloud):
    won, lost = [], []

    def contend(number):
        store = RunStore(Clients(), cloud.bucket, "us-east-1", "lease-test")
        try:
            won.append(store.acquire(f"owner-{number}", 30.0))
        except LeaseLostError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_a_lease_that_expired_is_taken_with_the_next_epoch_and_its_owner_is_refused(cloud):
    store = RunStore(Clients(), cloud.bucket, "us-east-1", "lease-expires")
    first = store.acquire("one", 0.0)
    second = store.acquire("two", 30.0)
    assert (first.epoch, second.epoch) == (1, 2)
    with pytest.raises(LeaseLostError):
        store.renew(first, 30.0)
    assert store.renew(second, 30.0).epoch == 2


def test_a_state_that_somebody_else_wrote_is_not_written_over(cloud):
    store = RunStore(Clients(), cloud.bucket, "us-east-1", "fence")
    etag = store.write_state({"a": 1}, "")
    newer = store.write_state({"a": 2}, etag)
    with pytest.raises(LeaseLostError):
        store.write_state({"a": 3}, etag)
    assert store.read_state() == ({"a": 2}, newer)


def test_code_is_stored_once_for_equal_trees(cloud, tmp_path):
    (tmp_path / "a").write_text("a")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    (tmp_path / "new").write_text("b")
    store = RunStore(Clients(), cloud.bucket, "us-east-1", "bundle")
    assert upload_code(store, tmp_path) == upload_code(store, tmp_path)


def test_a_quota_that_is_too_small_is_named(cloud):
    wanted = candidates(Request(accelerator="H100:8", markets=("on-demand",), zones=("a",), budget_usd=1))
    assert missing_quotas(Clients(), wanted) == []
    cloud.set_quota("L-417A185B", 0.0)
    assert [(item["code"], item["needed"]) for item in missing_quotas(Clients(), wanted)] == [("L-417A185B", 192)]
    cloud.set_quota("L-417A185B", 384.0)


def test_candidates_whose_quota_is_too_small_are_not_tried_and_an_unknown_quota_forbids_nothing(cloud):
    wanted = candidates(Request(accelerator="H100:8", markets=("spot", "on-demand"), zones=("a",), budget_usd=1))
    assert within_quotas(Clients(), wanted) == (wanted, [], [])
    cloud.set_quota("L-417A185B", 191.0)
    kept, short, _ = within_quotas(Clients(), wanted)
    cloud.set_quota("L-417A185B", 384.0)
    assert {item.market for item in kept} == {"spot"}
    assert short[0] == "quota L-417A185B in us-east-1 is 191 vCPUs, p5.48xlarge (on-demand) needs 192"
    number = cloud.fault(Rule(service="servicequotas", error="AccessDeniedException", status=400))
    try:
        assert within_quotas(Clients(), wanted) == (
            wanted,
            [],
            [
                f"quota {code} in us-east-1 was not read (AccessDeniedException): EC2 decides"
                for code in ("L-C4BD4855", "L-417A185B")
            ],
        )
        assert cloud.hits(number) == 2
    finally:
        cloud.clear(number)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ({"effect": "delay", "seconds": 3.0}, "ReadTimeoutError"),
        ({"effect": "lose_request"}, "ConnectionClosedError"),
    ],
)
def test_a_service_of_quotas_that_does_not_answer_is_asked_once_in_a_region_and_told_in_the_runs_history(
    cloud, tmp_path, monkeypatch, caplog, kind, why
):
    class Hasty(Clients):
        def quick(self, service, region):
            return self._client(service, region, 2, connect_seconds=1, read_seconds=1)

    monkeypatch.setattr("infra.ec2.runner.Clients", Hasty)
    monkeypatch.setattr("infra.ec2.runner.dvc.push_inputs", lambda *given: None)
    monkeypatch.setattr("infra.ec2.runner.upload_code", lambda *given: {"commit": "c", "dirty": False})
    request = Request(accelerator="H100:8", markets=("spot", "on-demand"), zones=("a",), budget_usd=1)
    runner = Ec2Runner(
        Account(bucket=cloud.bucket, image_parameter="/image", wheelhouse=False),
        lambda stage: request,
        lambda stage: None,
    )
    facts = StageFacts(
        fingerprint="f" * 64, command="true", inputs={}, parameters={}, upstream=(), outputs=(), state_folder="state"
    )
    store = RunStore(Clients(), cloud.bucket, "us-east-1", f"silent-{kind['effect'].replace('_', '-')}")
    number = cloud.fault(Rule(service="servicequotas", **kind))
    try:
        run = runner._new(JobSpec(stage="sft", root=tmp_path, environment={}), facts, store)
        assert cloud.hits(number) == 2  # the two attempts of one call; the other quota of the region is not waited for
    finally:
        cloud.clear(number)
    assert (run.candidates, run.not_tried) == (candidates(request), ())
    assert run.unknown == tuple(
        f"quota {code} in us-east-1 was not read ({why}): EC2 decides" for code in ("L-C4BD4855", "L-417A185B")
    )
    assert [f"sft: tried all the same: {line}" for line in run.unknown] == [
        item.getMessage() for item in caplog.records
    ]


@pytest.mark.parametrize(
    ("kind", "environment", "install"),
    [
        ("vllm", VLLM, ["-r", "constraints-vllm.txt"]),
        ("transformers", TRAIN, ["-c", "constraints.txt", "-e", ".[train,aws]"]),
    ],
)
def test_a_job_is_given_the_environment_of_its_engine(cloud, tmp_path, monkeypatch, kind, environment, install):
    shared = []
    monkeypatch.setattr("infra.ec2.runner.dvc.push_inputs", lambda *given: None)
    monkeypatch.setattr("infra.ec2.runner.upload_code", lambda *given: {"commit": "c", "dirty": False})
    monkeypatch.setattr(
        "infra.ec2.runner.share_wheelhouse",
        lambda store, root, named, _, gpus: shared.append((named, gpus)) or {"key": "k"},
    )
    request = Request(accelerator="H100:1" if kind == "vllm" else "cpu", zones=("a",), budget_usd=1)
    runner = Ec2Runner(
        Account(bucket=cloud.bucket, image_parameter="/image"), lambda stage: request, lambda stage: None
    )
    facts = StageFacts(
        fingerprint="f" * 64,
        command="true",
        inputs={},
        parameters={"seed": 1, "train": {"engine": {"kind": kind}}},
        upstream=(),
        outputs=(),
        state_folder="state",
    )
    store = RunStore(Clients(), cloud.bucket, "us-east-1", f"environment-{kind}")
    run = runner._new(JobSpec(stage="rl@stage1", root=tmp_path, environment={}), facts, store)
    assert shared == [(environment, kind == "vllm")]
    assert (run.work["install"], run.work["wheelhouse"]) == (install, {"key": "k"})


def test_the_service_of_quotas_is_given_up_soon():
    options = Clients().quick("service-quotas", "us-east-1").meta.config
    assert (options.connect_timeout, options.read_timeout, options.retries["total_max_attempts"]) == (3, 10, 2)


def test_spot_quotas_of_p4_and_p5_are_two(cloud):
    wanted = candidates(Request(accelerator="A100:8", markets=("spot",), zones=("a",), budget_usd=1))
    cloud.set_quota("L-C4BD4855", 0.0)
    assert within_quotas(Clients(), wanted) == (wanted, [], [])
    cloud.set_quota("L-C4BD4855", 384.0)
    cloud.set_quota("L-7212CCBC", 0.0)
    assert within_quotas(Clients(), wanted)[0] == ()
    cloud.set_quota("L-7212CCBC", 384.0)


def test_a_stage_that_no_quota_holds_is_refused_before_anything_is_sent(cloud, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr("infra.ec2.runner.dvc.push_inputs", lambda *given: sent.append(given))
    runner = Ec2Runner(
        Account(bucket=cloud.bucket, image_parameter="/image"),
        lambda stage: Request(accelerator="H100:8", markets=("on-demand",), zones=("a",), budget_usd=1),
        lambda stage: StageFacts(
            fingerprint="f" * 64,
            command="true",
            inputs={},
            parameters={},
            upstream=(),
            outputs=(),
            state_folder="state",
        ),
    )
    cloud.set_quota("L-417A185B", 0.0)
    before = len(cloud.calls("RunInstances"))
    try:
        with pytest.raises(
            InfraError, match=r"rl@stage1 was not started: quota L-417A185B .* needs 192.*Service Quotas"
        ):
            runner.submit(JobSpec(stage="rl@stage1", root=tmp_path, environment={}))
    finally:
        cloud.set_quota("L-417A185B", 384.0)
    assert (sent, len(cloud.calls("RunInstances"))) == ([], before)


def test_a_node_may_do_nothing_to_instances_and_policies_name_their_bucket():
    actions = [action for statement in statements("node") for action in statement["Action"]]
    assert not [action for action in actions if action.startswith(("ec2:", "iam:"))]
    assert max(Counter(actions).values()) == 1
    for name in ("node", "launcher"):
        for statement in statements(name):
            assert not [action for action in statement["Action"] if action.endswith("*")]


class ThreeRegions:
    """A stand-in for clients: an overdue instance in each region, and one region that refuses an operation."""

    def __init__(self, refuses: tuple[str, str]) -> None:
        self.refuses = refuses
        self.ended: list[str] = []

    def __call__(self, service, region):
        assert service == "ec2"
        return SimpleNamespace(
            get_paginator=lambda operation: SimpleNamespace(paginate=lambda **options: self._pages(operation, region)),
            describe_instances=lambda **options: next(iter(self._pages("describe_instances", region))),
            terminate_instances=lambda InstanceIds: self._end(region, InstanceIds),
        )

    def _pages(self, operation, region):
        self._refuse(region, operation)
        if operation == "describe_volumes":
            return [{"Volumes": []}]
        tags = [
            {"Key": "longfuse:run", "Value": "r"},
            {"Key": "longfuse:bucket", "Value": "b"},
            {"Key": "longfuse:deadline", "Value": "10"},
        ]
        instance = {"InstanceId": f"i-{region}", "State": {"Name": "running"}, "Tags": tags}
        return [{"Reservations": [{"Instances": [instance]}]}]

    def _end(self, region, instance_ids):
        self._refuse(region, "terminate_instances")
        self.ended += instance_ids

    def _refuse(self, region, operation):
        if (region, operation) == self.refuses:
            raise client_error("RequestLimitExceeded", 503)


@pytest.mark.parametrize("operation", ["describe_instances", "terminate_instances"])
def test_a_region_that_refuses_does_not_keep_the_reaper_from_the_others(operation):
    clients = ThreeRegions(("b", operation))
    with pytest.raises(ReapError, match=r"not swept.* b: .*RequestLimitExceeded") as raised:
        reap(clients, "b", "a", ["a", "b", "c"], now=100.0)
    assert clients.ended == ["i-a", "i-c"] == [item.resource_id for item in raised.value.found]
    assert [item.why for item in raised.value.found] == ["90 s past its deadline"] * 2
