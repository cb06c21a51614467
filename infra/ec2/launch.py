"""From an intent to instances: the exact request is stored, then sent, and an unknown outcome is resolved before anything else.

A ClientToken makes a repeated request harmless only if every byte of it is equal, so the request (with its deadline
tag) is written to the bucket first and sent from there, by whichever controller gets to it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import botocore.exceptions

from infra.ec2.aws import AMBIGUOUS, Clients, ErrorClass, classify, code_of, what_to_do
from infra.ec2.node.pack import agent_bytes
from infra.ec2.node.user_data import render_user_data
from infra.ec2.spec import Candidate, RunSpec
from infra.ec2.store import RunStore

logger = logging.getLogger(__name__)

TRIES = 6
TAG = "longfuse:"


@dataclass(frozen=True)
class Launched:
    """What came of an intent: instances (they may have ended by now); none (no capacity, and with which code); gone: it was

    done, and EC2 no longer lists what it made; refused for good. All empty: not known yet.
    """

    instances: tuple[str, ...] = ()
    image: str = ""  # what they booted from
    none: bool = False
    code: str = ""
    refused: str = ""
    gone: bool = False


def build_request(
    spec: RunSpec,
    candidate: Candidate,
    *,
    token: str,
    user_data: str,
    image: str,
    root_device: str,
    tags: dict[str, str],
) -> dict[str, Any]:
    """RunInstances for all nodes at once or none. Pure."""
    tag_list = [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
    request: dict[str, Any] = {
        "ImageId": image,
        "InstanceType": candidate.instance_type,
        "MinCount": spec.nodes,
        "MaxCount": spec.nodes,
        "ClientToken": token,
        "UserData": user_data,
        "Placement": {"AvailabilityZone": candidate.zone},
        "IamInstanceProfile": {"Name": spec.instance_profile},
        "InstanceInitiatedShutdownBehavior": "terminate",  # the default leaves a stopped instance and its disk
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [
            {
                "DeviceName": root_device,
                "Ebs": {
                    "VolumeSize": spec.disk_gb,
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tag_list} for kind in ("instance", "volume")],
    }
    if (group := spec.security_groups.get(candidate.region)) is not None:
        request["SecurityGroupIds"] = [group]
    if candidate.market == "spot":
        request["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    if candidate.reservation_id is not None:
        request["CapacityReservationSpecification"] = {
            "CapacityReservationTarget": {"CapacityReservationId": candidate.reservation_id}
        }
    return request


class Launcher:
    """Launches the attempts of one run."""

    def __init__(self, clients: Clients, store: RunStore, spec: RunSpec) -> None:
        self._clients = clients
        self._store = store
        self._spec = spec

    def launch(self, attempt: int, intent: int, place: int) -> Launched:
        """Carry an intent out, or find out what came of it. Never launches twice; may be called by any controller."""
        name = f"intents/{attempt:03d}-{intent:03d}"
        candidate = self._spec.candidates[place]
        if (known := self._store.read_json(f"{name}.outcome.json")) is not None:
            return Launched(**{**known, "instances": tuple(known["instances"])})
        request = self._store.read_json(f"{name}.json")
        try:
            if request is None:
                request = self._write_intent(name, attempt, intent, candidate)
            outcome = self._send(request, candidate.region)
        except botocore.exceptions.ClientError as error:
            if classify(error) is not ErrorClass.STOP:
                raise
            outcome = Launched(refused=f"{error}: {what_to_do(error)}")
        if outcome.instances and request is not None:
            outcome = replace(outcome, image=request["ImageId"])
        if outcome != Launched():
            self._store.write_json(f"{name}.outcome.json", asdict(outcome))
        return outcome

    def _write_intent(self, name: str, attempt: int, intent: int, candidate: Candidate) -> dict[str, Any]:
        """Everything of the launch, stored before the call."""
        image, root_device = self._image(candidate.region)
        hard_cap = time.time() + self._spec.stopping.hard_cap_seconds
        boot = json.dumps(boot_file(self._spec, attempt, hard_cap)).encode()
        boot_key = f"attempt-{attempt}/boot-{intent}.json"
        self._store.write(boot_key, boot)
        self._store.write_json("epoch", {"epoch": attempt})
        agent = agent_bytes()
        user_data = render_user_data(
            run_id=self._spec.run_id,
            attempt=attempt,
            node=0,
            ttl_minutes=self._spec.stopping.ttl_minutes,
            region=self._spec.bucket_region,
            bucket=self._spec.bucket,
            agent_key=self._store.share("shared/agent", agent),
            agent_sha256=hashlib.sha256(agent).hexdigest(),
            boot_key=f"{self._spec.prefix}/{boot_key}",
            boot_sha256=hashlib.sha256(boot).hexdigest(),
            boot_log_key=f"{self._spec.prefix}/attempt-{attempt}/node-0/boot.log",
        )
        key = f"{self._spec.run_id}/{attempt}/{intent}/{candidate.key}"
        request = build_request(
            self._spec,
            candidate,
            token=hashlib.sha256(key.encode()).hexdigest()[:48],
            user_data=user_data,
            image=image,
            root_device=root_device,
            tags={
                "Name": f"longfuse {self._spec.stage}",
                f"{TAG}run": self._spec.run_id,
                f"{TAG}attempt": str(attempt),
                f"{TAG}stage": self._spec.stage,
                f"{TAG}bucket": self._spec.bucket,
                f"{TAG}deadline": str(int(hard_cap)),
            },
        )
        self._store.write_json(f"{name}.json", request)
        return request

    def _image(self, region: str) -> tuple[str, str]:
        """(image id, its root device)."""
        ssm, ec2 = self._clients("ssm", region), self._clients("ec2", region)
        image = ssm.get_parameter(Name=self._spec.image_parameter)["Parameter"]["Value"]
        found = ec2.describe_images(ImageIds=[image])["Images"][0]
        return image, found["RootDeviceName"]

    def _send(self, request: dict[str, Any], region: str) -> Launched:
        """The call. After a lost answer the same request with the same token tells what happened.

        Instances that have ended count as much as living ones: a short stage may be over before its launch is answered.
        """
        launcher, token = self._clients.launcher(region), request["ClientToken"]
        pause = self._spec.rhythm.retry_seconds
        for _ in range(TRIES):
            try:
                answer = launcher.run_instances(**request)
                return Launched(tuple(item["InstanceId"] for item in answer["Instances"]))
            except (botocore.exceptions.ClientError, botocore.exceptions.HTTPClientError) as error:
                kind, code = classify(error), code_of(error)
                logger.info("RunInstances in %s: %s: %s", request["Placement"]["AvailabilityZone"], code, kind)
                if kind is ErrorClass.STOP:
                    raise
                if kind is ErrorClass.NEXT or code in AMBIGUOUS:
                    if found := find_by_token(self._clients, region, token):
                        return Launched(found)
                    if code == "IdempotentParameterMismatch":  # somebody else's launch: never to be tried once more
                        return Launched(refused=f"{error}; the request is kept in intents/ of the run")
                    return Launched(gone=True) if code in AMBIGUOUS else Launched(none=True, code=code)
            self._wait(pause)
            pause *= 2
        return Launched(find_by_token(self._clients, region, token))

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds)


def boot_file(spec: RunSpec, attempt: int, hard_cap: float) -> dict[str, Any]:
    """boot.json of an attempt."""
    stopping, rhythm = spec.stopping, spec.rhythm
    return {
        **spec.work,
        "run_id": spec.run_id,
        "attempt": attempt,
        "epoch": attempt,
        "bucket": spec.bucket,
        "region": spec.bucket_region,
        "prefix": spec.prefix,
        "hard_cap": hard_cap,
        "runtime_seconds": stopping.runtime_seconds,
        "grace_seconds": stopping.grace_seconds,
        "ttl_minutes": stopping.ttl_minutes,
        "stall_seconds": stopping.stall_seconds,
        "heartbeat_seconds": rhythm.heartbeat_seconds,
        "log_seconds": rhythm.log_seconds,
        "metadata_seconds": rhythm.metadata_seconds,
        "checkpoint_seconds": rhythm.checkpoint_seconds,
    }


def find_by_token(clients: Clients, region: str, token: str) -> tuple[str, ...]:
    """Instances that a token made and that EC2 still lists; that is for an hour after they have ended."""
    return tuple(item["InstanceId"] for item in describe(clients, region, "client-token", token))


def find_by_run(clients: Clients, regions: list[str], run_id: str) -> list[dict[str, Any]]:
    """Every instance of a run that EC2 still knows, in these regions."""
    return [item for region in regions for item in describe(clients, region, f"tag:{TAG}run", run_id)]


def describe(clients: Clients, region: str, name: str, value: str) -> list[dict[str, Any]]:
    """Instances by one filter, each with its region."""
    pages = (
        clients("ec2", region).get_paginator("describe_instances").paginate(Filters=[{"Name": name, "Values": [value]}])
    )
    reservations = [reservation for page in pages for reservation in page["Reservations"]]
    return [{**item, "Region": region} for reservation in reservations for item in reservation["Instances"]]


def is_alive(item: dict[str, Any]) -> bool:
    """Whether it costs money, or has a disk that does."""
    return item["State"]["Name"] != "terminated"
