"""`longfuse doctor --on ec2`: credentials, bucket with a probe of conditional writes, image, permissions by dry run, security groups,
quotas, and which environment a profile's stages get on their nodes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable

import botocore.exceptions

from flows.doctor import Finding
from flows.on_ec2 import account_of
from flows.params import list_profiles, profile_params
from infra.ec2.aws import Clients, code_of, what_to_do
from infra.ec2.environments import TRAIN, VLLM, environment_of
from infra.ec2.permissions import inbound_rules, probes, refusal
from infra.ec2.resources import Account, candidates, load_resources, missing_quotas
from infra.ec2.store import RunStore
from infra.errors import InfraError


def examine_ec2() -> list[Finding]:
    """Every check, none of which raises or launches anything."""
    resources = load_resources()
    account, clients = account_of(resources.account), Clients()
    findings = [
        _environments(resources.profiles),
        _told(lambda: _caller(clients, account), "credentials", "Set AWS_PROFILE, or log in."),
    ]
    if account.bucket is None:
        remedy = "Set account.bucket in infra/resources.yaml, or LONGFUSE_BUCKET."
        findings.append(Finding(level="fail", what="no bucket for runs", remedy=remedy))
    else:
        bucket = account.bucket
        remedy = "The storage must honour If-None-Match: use S3 itself."
        findings.append(_told(lambda: probe_bucket(clients, bucket, account.bucket_region), f"bucket {bucket}", remedy))
    for region in resources.regions():
        findings += [*_permissions(clients, account, region), _security_group(clients, account, region)]
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


def _environments(profiles: Iterable[str]) -> Finding:
    """By the engine of each profile as it is shipped; `longfuse plan --on ec2` tells it of the stages as they are set."""
    ours = [name for name in profiles if name in list_profiles()]
    got = {name: environment_of({"train": profile_params(name)["train"]}).name for name in ours}
    words = [
        f"{environment.name} ({environment.lock}) for {', '.join(names)}"
        for environment in (TRAIN, VLLM)
        if (names := [name for name in ours if got[name] == environment.name])
    ]
    return Finding(level="ok", what=f"environments of nodes: {'; '.join(words) or 'of no profile that is shipped'}")


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
    """Write an object once, try to write it again, list it, begin and abort a large one, delete it.

    Raises InfraError if the storage lets the second write pass.
    """
    store, s3 = RunStore(clients, bucket, region, f"doctor-{uuid.uuid4().hex[:8]}"), clients("s3", region)
    try:
        first, second = store.write_once("probe", {"try": 1}), store.write_once("probe", {"try": 2})
        if store.keys() != ["probe"]:
            raise InfraError(f"bucket {bucket} does not list what was just written: checkpoints could not be found.")
        large = {"Bucket": bucket, "Key": f"{store.prefix}/large"}
        s3.abort_multipart_upload(**large, UploadId=s3.create_multipart_upload(**large)["UploadId"])
    finally:
        s3.delete_object(Bucket=bucket, Key=f"{store.prefix}/probe")
    if not first or second:
        raise InfraError(f"bucket {bucket} ignores conditional writes: two controllers could hold one run.")
    return f"bucket {bucket} takes conditional writes"


def _permissions(clients: Clients, account: Account, region: str) -> list[Finding]:
    """A line for every action that is refused; one line if none is."""
    asked = probes(clients, account, region)
    findings: list[Finding] = []
    for action, probe in asked.items():
        try:
            refused = refusal(probe)
        except botocore.exceptions.BotoCoreError as error:
            return [*findings, Finding(level="fail", what=f"{region}: {error}", remedy=what_to_do(error))]
        if refused is not None:
            what = f"{action} in {region}: {refused}"
            findings.append(Finding(level="fail", what=what, remedy=_remedy(action, refused)))
    return findings or [Finding(level="ok", what=f"may do in {region} what a launch needs: {len(asked)} dry runs")]


def _remedy(action: str, refused: botocore.exceptions.ClientError) -> str:
    if code_of(refused) == "UnauthorizedOperation" and action in {"ec2:TerminateInstances", "ec2:DeleteVolume"}:
        return (
            "Compare with infra/ec2/policies/launcher.json. It allows this for what bears our tag; if your policy does, too, AWS "
            "may refuse it for the made-up name that a dry run needs: then the first real run shows."
        )
    return what_to_do(refused)


def _security_group(clients: Clients, account: Account, region: str) -> Finding:
    group = account.security_groups.get(region)
    remedy = "Name one without inbound rules under account.security_groups in infra/resources.yaml."
    if group is None:
        what = f"no security group for {region}: nodes get the default one, which lets its own members in"
        return Finding(level="warn", what=what, remedy=remedy)
    try:
        rules = inbound_rules(clients, region, group)
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        return Finding(level="fail", what=f"security group {group} in {region}: {error}", remedy=remedy)
    if rules:
        return Finding(
            level="fail", what=f"security group {group} in {region} has {rules} inbound rules", remedy=remedy
        )
    return Finding(level="ok", what=f"security group {group} in {region} lets nothing in")
