"""Launches a stage on a simulated instance without a controller: what the agent and the host do by themselves."""

import functools
import hashlib
import json
import sys
import time
import uuid
from pathlib import Path

import boto3

from infra.ec2.node.pack import agent_bytes
from infra.ec2.node.user_data import render_user_data
from infra.sim.account import IMAGE_PARAMETERS, NODE_PROFILE

TOY = Path(__file__).with_name("toy_stage.py")


def client(cloud, service, region="us-east-1", **options):
    """A client of the launching side. The plain ones are kept: making one takes longer than most calls."""
    return make_client(cloud.endpoint, service, region, **options) if options else kept_client(cloud.endpoint, service)


def make_client(endpoint, service, region="us-east-1", **options):
    return boto3.Session().client(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id="AKIASIMULATEDCONTROL",
        aws_secret_access_key="simulated",
        **options,
    )


kept_client = functools.lru_cache(maxsize=64)(make_client)


@functools.cache
def image_of(endpoint):
    return kept_client(endpoint, "ssm").get_parameter(Name=IMAGE_PARAMETERS[0])["Parameter"]["Value"]


class Run:
    """One run: its place in the bucket, its attempts."""

    def __init__(self, cloud, **boot):
        self.cloud = cloud
        self.id = uuid.uuid4().hex[:8]
        self.prefix = f"runs/{self.id}"
        self.s3 = client(cloud, "s3")
        self.attempts = 0
        self.boot = boot
        self.instance = ""

    def launch(
        self,
        *toy,
        agent_key=None,
        market="spot",
        zone="us-east-1a",
        shutdown="terminate",
        command=None,
        ttl_minutes=10,
        hard_cap_seconds=120,
        **boot,
    ):
        """Start an attempt; `toy`: arguments of the toy stage after STATE and OUTPUT."""
        self.attempts += 1
        agent = agent_bytes()
        words = [sys.executable, str(TOY), "state", "out/result.json", *map(str, toy)]
        settings = {
            "run_id": self.id,
            "attempt": self.attempts,
            "epoch": self.attempts,
            "bucket": self.cloud.bucket,
            "region": "us-east-1",
            "prefix": self.prefix,
            "command": words,
            "state_folder": "state",
            "result_files": ["out/result.json"],
            "hard_cap": time.time() + hard_cap_seconds,
            "ttl_minutes": ttl_minutes,
            "reserve_mb": 1,
            "grace_seconds": 3.0,
            "heartbeat_seconds": 0.3,
            "log_seconds": 0.3,
            "metadata_seconds": 0.2,
            "checkpoint_seconds": 0.2,
            **self.boot,
            **boot,
            **({"command": command} if command else {}),
        }
        data = json.dumps(settings).encode()
        self.put("agent.pyz", agent)
        self.put(f"attempt-{self.attempts}/boot.json", data)
        self.put("epoch", json.dumps({"epoch": self.attempts}).encode())
        text = render_user_data(
            run_id=self.id,
            attempt=self.attempts,
            node=0,
            ttl_minutes=ttl_minutes,
            region="us-east-1",
            bucket=self.cloud.bucket,
            agent_key=agent_key or f"{self.prefix}/agent.pyz",
            agent_sha256=hashlib.sha256(agent).hexdigest(),
            boot_key=f"{self.prefix}/attempt-{self.attempts}/boot.json",
            boot_sha256=hashlib.sha256(data).hexdigest(),
            boot_log_key=f"{self.prefix}/{self.place}/boot.log",
        )
        self.user_data = text
        return self.ask(text, market, shutdown, zone) if zone else self

    def ask(self, text, market, shutdown, zone, ec2=None):
        """RunInstances for the present attempt."""
        market_options = {"InstanceMarketOptions": {"MarketType": "spot"}} if market == "spot" else {}
        image = image_of(self.cloud.endpoint)
        answer = (ec2 or client(self.cloud, "ec2")).run_instances(
            ImageId=image,
            InstanceType="g5.xlarge",
            MinCount=1,
            MaxCount=1,
            UserData=text,
            ClientToken=self.token(zone),
            Placement={"AvailabilityZone": zone},
            InstanceInitiatedShutdownBehavior=shutdown,
            MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            IamInstanceProfile={"Name": NODE_PROFILE},
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "run", "Value": self.id}]}],
            **market_options,
        )
        self.instance = answer["Instances"][0]["InstanceId"]
        return self

    def token(self, zone):
        return f"{self.id}-{self.attempts}-{zone}"

    @property
    def place(self):
        return f"attempt-{self.attempts}/node-0"

    def put(self, key, data):
        self.s3.put_object(Bucket=self.cloud.bucket, Key=f"{self.prefix}/{key}", Body=data)

    def read(self, key):
        try:
            return self.s3.get_object(Bucket=self.cloud.bucket, Key=f"{self.prefix}/{key}")["Body"].read().decode()
        except self.s3.exceptions.NoSuchKey:
            return None

    def read_json(self, key):
        text = self.read(key)
        return None if text is None else json.loads(text)

    def listed(self, prefix=""):
        pages = self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.cloud.bucket, Prefix=f"{self.prefix}/{prefix}"
        )
        return [item["Key"][len(self.prefix) + 1 :] for page in pages for item in page.get("Contents", [])]

    def log(self):
        return "".join(self.read(key) or "" for key in sorted(self.listed(f"{self.place}/log/")))

    def wait_log(self, text, seconds=15):
        self.cloud.wait(lambda: text in self.log(), seconds, f"{text!r} in the log of {self.instance}")

    def wait_end(self, seconds=20):
        """Wait until the instance is terminated; exit.json, None if there is none."""
        self.cloud.wait(lambda: self.state() == "terminated", seconds, f"the end of {self.instance}: {self.state()}")
        return self.read_json(f"{self.place}/exit.json")

    def state(self):
        return self.facts()["state"]

    def facts(self):
        return next(item for item in self.cloud.instances() if item["id"] == self.instance)
