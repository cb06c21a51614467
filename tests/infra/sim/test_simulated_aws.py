"""The simulated AWS where plain moto differs from the real one: each fact is one that a launcher relies on."""

import io
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid

import botocore.config
import botocore.exceptions
import psutil
import pytest

from infra.sim import namespaces
from infra.sim.account import IMAGE_PARAMETERS, NODE_PROFILE
from infra.sim.cloud import SimulatedCloud
from infra.sim.faults import Faults, Rule
from infra.sim.imds import MetadataService
from tests.infra.sim.lab import client
from tests.infra.sim.permission import need_namespaces


def request(cloud, **changes):
    image = client(cloud, "ssm").get_parameter(Name=IMAGE_PARAMETERS[0])["Parameter"]["Value"]
    return {
        "ImageId": image,
        "InstanceType": "p5.48xlarge",
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": uuid.uuid4().hex,
        "Placement": {"AvailabilityZone": "us-east-1b"},
        "IamInstanceProfile": {"Name": NODE_PROFILE},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "UserData": "#!/bin/sh\nsleep 60\n",
        **changes,
    }


def launch_client(cloud):
    return client(cloud, "ec2", config=botocore.config.Config(retries={"total_max_attempts": 1}))


def launched(answer):
    return answer["Instances"][0]["InstanceId"]


def refused(call, **arguments):
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def wait_state(cloud, instance, state):
    cloud.wait(lambda: any(i["id"] == instance and i["state"] == state for i in cloud.instances()), 10, state)


def test_a_client_token_launches_once(quiet):
    ec2, wanted = launch_client(quiet), request(quiet)
    first = launched(ec2.run_instances(**wanted))
    assert launched(ec2.run_instances(**wanted)) == first
    assert refused(ec2.run_instances, **{**wanted, "InstanceType": "p4d.24xlarge"})[0] == "IdempotentParameterMismatch"
    ec2.terminate_instances(InstanceIds=[first])
    wait_state(quiet, first, "terminated")
    assert refused(ec2.run_instances, **wanted)[0] == "IdempotentInstanceTerminated"
    assert [item["id"] for item in quiet.instances() if item["client_token"] == wanted["ClientToken"]] == [first]


def test_missing_capacity_is_an_http_500_in_one_zone_only(quiet):
    quiet.fault(
        Rule(operation="RunInstances", match={"az": "us-east-1b"}, error="InsufficientInstanceCapacity", status=500)
    )
    ec2, wanted = launch_client(quiet), request(quiet)
    assert refused(ec2.run_instances, **wanted) == ("InsufficientInstanceCapacity", 500)
    assert launched(ec2.run_instances(**request(quiet, Placement={"AvailabilityZone": "us-east-1c"})))
    assert len(quiet.calls("RunInstances", client_token=wanted["ClientToken"])) == 1


def test_a_lost_answer_leaves_an_instance_that_its_token_finds(quiet):
    quiet.fault(Rule(operation="RunInstances", effect="lose_response", count=1))
    ec2, wanted = launch_client(quiet), request(quiet)
    with pytest.raises(botocore.exceptions.ConnectionClosedError):
        ec2.run_instances(**wanted)
    found = ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [wanted["ClientToken"]]}])
    assert len(found["Reservations"]) == 1
    assert launched(ec2.run_instances(**wanted)) == launched(found["Reservations"][0])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ImageId": "ami-00000000"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "p9.huge"}, "InvalidInstanceType.NotFound"),
        ({"UserData": "x" * 16_385}, "InvalidParameterValue"),
        ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
        ({"InstanceInitiatedShutdownBehavior": "explode"}, "InvalidParameterValue"),
    ],
)
def test_what_aws_refuses_is_refused(quiet, changes, code):
    assert refused(launch_client(quiet).run_instances, **request(quiet, **changes))[0] == code


def test_an_instance_is_pending_running_shutting_down_terminated(quiet):
    ec2 = launch_client(quiet)
    answer = ec2.run_instances(**request(quiet, InstanceMarketOptions={"MarketType": "spot"}))
    instance = launched(answer)
    assert answer["Instances"][0]["State"]["Name"] == "pending"
    wait_state(quiet, instance, "running")
    told = ec2.describe_instances(Filters=[{"Name": "instance-lifecycle", "Values": ["spot"]}])
    assert instance in [launched(reservation) for reservation in told["Reservations"]]
    changed = ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"][0]
    assert changed["CurrentState"]["Name"] == "shutting-down"
    wait_state(quiet, instance, "terminated")
    reason = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["StateReason"]
    assert reason["Code"] == "Client.UserInitiatedShutdown"


@pytest.mark.slow
def test_an_instance_may_be_unknown_for_a_moment_after_its_launch(quiet):
    quiet.fault(Rule(operation="RunInstances", effect="hide", seconds=2.0, count=1))
    ec2 = launch_client(quiet)
    instance = launched(ec2.run_instances(**request(quiet)))
    assert refused(ec2.describe_instances, InstanceIds=[instance])[0] == "InvalidInstanceID.NotFound"
    listed = ec2.describe_instances(Filters=[{"Name": "instance-type", "Values": ["p5.48xlarge"]}])
    assert instance not in [launched(reservation) for reservation in listed["Reservations"]]
    quiet.wait(
        lambda: ec2.describe_instances(Filters=[{"Name": "instance-id", "Values": [instance]}])["Reservations"],
        5,
        "seen",
    )


@pytest.mark.slow
def test_shutdown_by_its_absolute_path_stops_an_instance_whose_behaviour_is_stop(quiet):
    text = "#!/bin/sh\n(setsid nohup sleep 600 &)\n/sbin/shutdown -h now\n"
    instance = launched(
        launch_client(quiet).run_instances(**request(quiet, UserData=text, InstanceInitiatedShutdownBehavior="stop"))
    )
    wait_state(quiet, instance, "stopped")  # and its disk still costs money
    assert [item["id"] for item in quiet.alive()] == [instance]
    assert not processes_under(quiet.folder / "instances" / instance)


@pytest.mark.slow
def test_a_shutdown_timer_can_be_set_anew_and_cancelled(quiet):
    text = "#!/bin/sh\nshutdown -h +1\nshutdown -h +60\nshutdown -c\nshutdown -h +1\necho armed\n"
    started = time.monotonic()
    instance = launched(launch_client(quiet).run_instances(**request(quiet, UserData=text)))
    wait_state(quiet, instance, "terminated")
    assert time.monotonic() - started > 2.0  # a minute of this cloud
    words = ["shutdown +1", "shutdown +60", "shutdown cancel", "shutdown +1"]
    assert [
        line.removeprefix("[simulator] ") for line in quiet.console(instance).splitlines() if " shutdown " in line
    ] == words


def test_an_early_error_still_takes_the_whole_body(quiet):
    quiet.fault(Rule(service="s3", operation="PutObject", error="SlowDown", status=503, count=1))
    s3 = client(quiet, "s3", config=botocore.config.Config(retries={"total_max_attempts": 1}))
    assert refused(s3.put_object, Bucket=quiet.bucket, Key="big", Body=io.BytesIO(b"x" * (8 << 20))) == (
        "SlowDown",
        503,
    )


def test_an_upload_that_is_cut_off_stores_nothing(quiet):
    host, port = quiet.endpoint.removeprefix("http://").split(":")
    scope = "Credential=AKIATORN/20260101/us-east-1/s3/aws4_request"
    with socket.create_connection((host, int(port))) as connection:
        head = f"PUT /{quiet.bucket}/torn HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 {scope}\r\nContent-Length: 100\r\n\r\nhalf"
        connection.sendall(head.encode())
    quiet.wait(lambda: quiet.calls("torn request"), 5, "the torn request")
    assert refused(client(quiet, "s3").head_object, Bucket=quiet.bucket, Key="torn")[1] == 404


def test_a_body_that_does_not_fit_its_digest_is_refused_and_a_corrupted_one_is_stored(quiet):
    options = {"retries": {"total_max_attempts": 1}, "response_checksum_validation": "when_required"}
    s3 = client(quiet, "s3", config=botocore.config.Config(**options))
    wrong = "AAAAAAAAAAAAAAAAAAAAAA=="
    assert refused(s3.put_object, Bucket=quiet.bucket, Key="k", Body=b"text", ContentMD5=wrong) == ("BadDigest", 400)
    quiet.fault(Rule(service="s3", operation="PutObject", effect="corrupt", count=1))
    s3.put_object(Bucket=quiet.bucket, Key="k", Body=b"text")
    assert s3.get_object(Bucket=quiet.bucket, Key="k")["Body"].read() == b"tex\x00"


@pytest.mark.slow
def test_quotas_are_answered_and_can_be_changed(quiet):
    quotas = client(quiet, "service-quotas")
    quiet.set_quota("L-417A185B", 0.0)
    assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-417A185B")["Quota"]["Value"] == 0.0
    quiet.set_quota("L-417A185B", 384.0)
    assert "L-7212CCBC" in [quota["QuotaCode"] for quota in quotas.list_service_quotas(ServiceCode="ec2")["Quotas"]]


def test_the_metadata_service_wants_a_token():
    service = MetadataService({"meta-data/instance-id": "i-1"}, token_required=True)
    service.start()
    try:

        def ask(path, method="GET", **headers):
            asked = urllib.request.Request(service.address + path, method=method, headers=headers)
            try:
                with urllib.request.urlopen(asked, timeout=5) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, ""

        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        assert ask("/latest/meta-data/instance-id")[0] == 401
        assert ask("/latest/api/token", "PUT", **ttl, **{"X-Forwarded-For": "10.0.0.1"})[0] == 403
        token = ask("/latest/api/token", "PUT", **ttl)[1]
        assert ask("/latest/meta-data/instance-id", **{"X-aws-ec2-metadata-token": token}) == (200, "i-1")
        assert ask("/latest/meta-data/spot/instance-action", **{"X-aws-ec2-metadata-token": token})[0] == 404
    finally:
        service.stop()


def test_rules_skip_count_and_match():
    faults = Faults(seed=1)
    number = faults.add(Rule(operation="Run*", match={"az": "*a"}, skip=1, count=2))
    call = {"service": "ec2", "operation": "RunInstances", "az": "us-east-1a"}
    assert [faults.hit(call) is not None for _ in range(5)] == [False, True, True, False, False]
    assert faults.hit({**call, "az": "us-east-1b"}) is None
    assert faults.hits(number) == 2


@pytest.mark.slow
def test_nothing_outlives_a_simulator_that_is_killed(tmp_path):
    need_namespaces()
    cloud = SimulatedCloud(tmp_path / "cloud", pending_seconds=0.0).start()
    try:
        text = "#!/bin/sh\n(setsid nohup sleep 600 &)\nsleep 600\n"
        instance = launched(launch_client(cloud).run_instances(**request(cloud, UserData=text)))
        folder = cloud.folder / "instances" / instance
        cloud.wait(lambda: len(processes_under(folder)) >= 3, 10, "a booted instance")
        os.kill(cloud._process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while processes_under(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not processes_under(folder)
    finally:
        cloud.stop()


def test_where_namespaces_are_refused_it_says_so(monkeypatch):
    namespaces.why_not.cache_clear()
    monkeypatch.setattr(namespaces, "UNSHARE", ("sh", "-c", "echo unshare failed: Operation not permitted >&2; exit 1"))
    try:
        with pytest.raises(namespaces.NoNamespacesError, match=r"Operation not permitted.*--privileged"):
            namespaces.require()
    finally:
        namespaces.why_not.cache_clear()


def test_ci_fails_where_instances_cannot_boot_unless_that_is_allowed():
    with pytest.raises(pytest.skip.Exception, match="no reason"):
        need_namespaces(environ={}, reason="no reason")
    with pytest.raises(pytest.fail.Exception, match="ALLOW_NO_NAMESPACES"):
        need_namespaces(environ={"LONGFUSE_REQUIRE_NAMESPACES": "1"}, reason="no reason")
    script = 'source <(sed -n "/ALLOW_NO_NAMESPACES/p" .ci/run); echo "${LONGFUSE_REQUIRE_NAMESPACES:-0}"'
    for given, required in (("0", "1"), ("1", "0")):
        done = subprocess.run(
            ["bash", "-c", script],
            env={"ALLOW_NO_NAMESPACES": given, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == required


def processes_under(folder):
    """Processes of an instance: those that its environment or command line names."""
    found = []
    for process in psutil.process_iter():
        try:
            told = " ".join([*process.cmdline(), process.environ().get("LONGFUSE_NODE_DIR", "")])
        except psutil.Error:
            continue
        if str(folder) in told and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found
