"""Asks for every API that the launching side uses in a region, by a dry run where there is one; nothing is made or changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import botocore.exceptions

from infra.ec2.aws import Clients, code_of
from infra.ec2.launch import TAG
from infra.ec2.resources import Account

# EC2 says so where it would have done it, and where what was named is not there: either way it was allowed.
ALLOWED = frozenset({"DryRunOperation", "InvalidInstanceID.NotFound", "InvalidVolume.NotFound"})
NO_INSTANCE, NO_VOLUME = "i-00000000000000000", "vol-00000000000000000"
SMALL = "m6i.xlarge"

Probe = Callable[[], Any]


def probes(clients: Clients, account: Account, region: str) -> dict[str, Probe]:
    """IAM actions -> the call that needs them; `refusal` makes it."""
    ec2, launcher = clients("ec2", region), clients.launcher(region)
    image: dict[str, str] = {}

    def find_image() -> None:
        image["id"] = clients("ssm", region).get_parameter(Name=account.image_parameter)["Parameter"]["Value"]

    def launch(**market: Any) -> None:
        if "id" not in image:
            find_image()
        tags = [{"Key": f"{TAG}bucket", "Value": account.bucket or "none"}]
        group = account.security_groups.get(region)
        launcher.run_instances(
            DryRun=True,
            ImageId=image["id"],
            InstanceType=SMALL,
            MinCount=1,
            MaxCount=1,
            IamInstanceProfile={"Name": account.instance_profile},
            TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
            **({"SecurityGroupIds": [group]} if group is not None else {}),
            **market,
        )

    return {
        "ssm:GetParameter": find_image,
        "ec2:DescribeImages": lambda: ec2.describe_images(Owners=["self"], DryRun=True),
        "ec2:RunInstances, ec2:CreateTags, iam:PassRole": launch,
        "ec2:RunInstances on spot": lambda: launch(InstanceMarketOptions={"MarketType": "spot"}),
        "ec2:DescribeInstances": lambda: ec2.describe_instances(DryRun=True),
        "ec2:TerminateInstances": lambda: launcher.terminate_instances(InstanceIds=[NO_INSTANCE], DryRun=True),
        "ec2:DescribeVolumes": lambda: ec2.describe_volumes(DryRun=True),
        "ec2:DeleteVolume": lambda: launcher.delete_volume(VolumeId=NO_VOLUME, DryRun=True),
        "ec2:DescribeSecurityGroups": lambda: ec2.describe_security_groups(DryRun=True),
        "servicequotas:GetServiceQuota": lambda: clients.quick("service-quotas", region).get_service_quota(
            ServiceCode="ec2", QuotaCode="L-1216C47A"
        ),
    }


def refusal(probe: Probe) -> botocore.exceptions.ClientError | None:
    """What AWS refuses; None if it would have done it. Raises BotoCoreError where nothing answers or nobody is logged in."""
    try:
        probe()
    except botocore.exceptions.ClientError as error:
        return None if code_of(error) in ALLOWED else error
    return None


def inbound_rules(clients: Clients, region: str, group: str) -> int:
    """How many rules let something into a security group. Raises ClientError if there is no such group."""
    found = clients("ec2", region).describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    return len(found["IpPermissions"])
