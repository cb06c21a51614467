"""What a simulated account holds at the start: images, a node role, a bucket. Networks are moto's default ones."""

from __future__ import annotations

import json
from typing import Any

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models.amis import Ami
from moto.ssm.models import Parameter, ssm_backends

from infra.sim import machines

NODE_PROFILE = "longfuse-node"
BUCKET = "longfuse-simulated"
# The image that DLAMI publishes under this name; moto knows no such parameter.
IMAGE_PARAMETERS = (
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id",
    "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id",
)
REGIONS = ("us-east-1", "us-east-2", "us-west-2")


def furnish(address: str, regions: tuple[str, ...] = REGIONS) -> None:
    """Make it, through the API where there is one."""

    def client(service: str, region: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=address,
            region_name=region,
            aws_access_key_id="furnisher",
            aws_secret_access_key="furnisher",
        )

    client("s3", "us-east-1").create_bucket(Bucket=BUCKET)
    iam = client("iam", "us-east-1")
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
        ],
    }
    iam.create_role(RoleName=NODE_PROFILE, AssumeRolePolicyDocument=json.dumps(trust))
    iam.create_instance_profile(InstanceProfileName=NODE_PROFILE)
    iam.add_role_to_instance_profile(InstanceProfileName=NODE_PROFILE, RoleName=NODE_PROFILE)
    for region in regions:
        image = _image(region)
        for name in IMAGE_PARAMETERS:
            _put_parameter(region, name, image)


def _image(region: str) -> str:
    images = machines.backend(region).describe_images(filters={"architecture": ["x86_64"]})
    ubuntu = [image for image in images if isinstance(image, Ami) and "ubuntu" in (image.name or "")]
    return str((ubuntu or images)[0].id)


def _put_parameter(region: str, name: str, value: str) -> None:
    """Names under /aws/ cannot be put through the API."""
    backend = ssm_backends[DEFAULT_ACCOUNT_ID][region]
    backend._parameters[name] = [
        Parameter(
            account_id=DEFAULT_ACCOUNT_ID,
            name=name,
            value=value,
            parameter_type="String",
            description="",
            allowed_pattern=None,
            keyid=None,
            last_modified_date=0,
            version=1,
            data_type="aws:ec2:image",
        )
    ]
