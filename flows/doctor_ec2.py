"""`longfuse doctor --on ec2`: credentials, bucket with a probe of conditional writes, image, permissions by dry run, quotas."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import botocore.exceptions

from flows.doctor import Finding
from flows.on_ec2 import account_of
from infra.ec2.aws import Clients, code_of, what_to_do
from infra.ec2.resources import Account, candidates, load_resources, missing_quotas
from infra.ec2.store import RunStore
from infra.errors import InfraError


def examine_ec2() -> list[Finding]:
    """Every check, none of which raises or launches anything."""
    resources = load_resources()
    account, clients = account_of(resources.account), Clients()
    findings = [_told(lambda: _caller(clients, account), "credentials", "Set AWS_PROFILE, or log in.")]
    if account.bucket is None:
        remedy = "Set account.bucket in infra/resources.yaml, or LONGFUSE_BUCKET."
        findings.append(Finding(level="fail", what="no bucket for runs", remedy=remedy))
    else:
        bucket = account.bucket
        remedy = "The storage must honour If-None-Match: use S3 itself."
        findings.append(_told(lambda: probe_bucket(clients, bucket, account.bucket_region), f"bucket {bucket}", remedy))
    for region in sorted({r for p in resources.profiles.values() for q in p.stages.values() for r in q.regions}):
        findings.append(_told(lambda region=region: _dry_run(clients, account, region), f"launching in {region}", ""))  # type: ignore[misc]
    wanted = [request for profile in resources.profiles.values() for request in profile.stages.values()]
    every = tuple(item for request in wanted for item in candidates(request))
    try:
        for item in missing_quotas(clients, every):
            what = f"quota {item['code']} in {item['region']}: {item['have']:g} of {item['needed']} vCPUs"
            remedy = f"Ask for more of {item['name']!r} in the Service Quotas console."
            findings.append(Finding(level="warn", what=what, remedy=remedy))
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        findings.append(Finding(level="warn", what=f"quotas: {error}", remedy=what_to_do(error)))
    return findings


def _told(check: Callable[[], str], subject: str, remedy: str) -> Finding:
    try:
        return Finding(level="ok", what=check())
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        return Finding(level="fail", what=f"{subject}: {error}", remedy=remedy or what_to_do(error))
    except InfraError as error:
        return Finding(level="fail", what=f"{subject}: {error}", remedy=remedy)


def _caller(clients: Clients, account: Account) -> str:
    return f"credentials of {clients('sts', account.bucket_region).get_caller_identity()['Arn']}"


def probe_bucket(clients: Clients, bucket: str, region: str) -> str:
    """Write an object once, and try to write it again. Raises InfraError if the storage lets that pass."""
    store = RunStore(clients, bucket, region, f"doctor-{uuid.uuid4().hex[:8]}")
    try:
        first, second = store.write_once("probe", {"try": 1}), store.write_once("probe", {"try": 2})
    finally:
        clients("s3", region).delete_object(Bucket=bucket, Key=f"{store.prefix}/probe")
    if not first or second:
        raise InfraError(f"bucket {bucket} ignores conditional writes: two controllers could hold one run.")
    return f"bucket {bucket} takes conditional writes"


def _dry_run(clients: Clients, account: Account, region: str) -> str:
    image = clients("ssm", region).get_parameter(Name=account.image_parameter)["Parameter"]["Value"]
    try:
        clients.launcher(region).run_instances(
            ImageId=image,
            InstanceType="m6i.xlarge",
            MinCount=1,
            MaxCount=1,
            DryRun=True,
            IamInstanceProfile={"Name": account.instance_profile},
        )
    except botocore.exceptions.ClientError as error:
        if code_of(error) != "DryRunOperation":
            raise
    return f"may launch in {region} (image {image})"
