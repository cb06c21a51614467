"""RunInstances as AWS documents it, where plain moto is lenient or forgetful.

ClientToken makes a launch idempotent: the same request with the same token gives the same instances, another request
with that token IdempotentParameterMismatch, and once all its instances are gone IdempotentInstanceTerminated.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends

from infra.sim import machines
from infra.sim.wire import Call

USER_DATA_BYTES = 16_384
_INSTANCE_ID = re.compile(rb"<instanceId>(i-[0-9a-f]+)</instanceId>")


@dataclass
class RefusalError(Exception):
    """The call is answered with an error."""

    code: str
    message: str
    status: int = 400


@dataclass
class Launch:
    """A launch that was done under a token."""

    digest: str
    guard: threading.Lock = field(default_factory=threading.Lock)
    response: bytes | None = None
    instance_ids: list[str] = field(default_factory=list)


def check(call: Call) -> None:
    """Refuse what AWS refuses and moto takes. Raises RefusalError."""
    params = call.params
    try:
        size = len(base64.b64decode(params.get("UserData", ""), validate=True))
    except (binascii.Error, ValueError):
        raise RefusalError("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if size > USER_DATA_BYTES:
        raise RefusalError("InvalidParameterValue", f"User data is limited to {USER_DATA_BYTES} bytes")
    if params.get("InstanceInitiatedShutdownBehavior", "stop") not in {"stop", "terminate"}:
        raise RefusalError("InvalidParameterValue", "Invalid value for instanceInitiatedShutdownBehavior")
    if params.get("MetadataOptions.HttpTokens", "optional") not in {"optional", "required"}:
        raise RefusalError("InvalidParameterValue", "Invalid value for HttpTokens")
    if machines.market_of(params) not in {"on-demand", "spot", "capacity-block"}:
        raise RefusalError("InvalidParameterValue", "Invalid value for InstanceMarketOptions.MarketType")
    if int(params.get("MinCount", 1)) > int(params.get("MaxCount", 1)):
        raise RefusalError("InvalidParameterValue", "MinCount is greater than MaxCount")
    if len(params.get("ClientToken", "")) > 64:
        raise RefusalError("InvalidParameterValue", "ClientToken is limited to 64 characters")
    profile = params.get("IamInstanceProfile.Name") or params.get("IamInstanceProfile.Arn", "").rpartition("/")[2]
    known = {item.name for item in iam_backends[DEFAULT_ACCOUNT_ID]["aws"].instance_profiles.values()}
    if profile and profile not in known:
        raise RefusalError(
            "InvalidParameterValue",
            f"Value ({profile}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
        )


class Launches:
    """Launches by (region, token)."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._launches: dict[tuple[str, str], Launch] = {}

    def of(self, call: Call) -> Launch:
        """The launch that this call asks for, perhaps for the second time; hold its guard while it is done.

        Raises RefusalError if its token belongs to another request.
        """
        token = call.params.get("ClientToken") or f"none-{id(call)}"
        digest = hashlib.sha256(json.dumps(call.params, sort_keys=True).encode()).hexdigest()
        with self._guard:
            launch = self._launches.setdefault((call.region, token), Launch(digest))
        if launch.digest != digest:
            raise RefusalError(
                "IdempotentParameterMismatch",
                "The client token you have provided is associated with a resource that was launched with different parameters.",
            )
        return launch

    def replay(self, launch: Launch) -> bytes | None:
        """The answer of a launch that was done already; None if it was not. Raises RefusalError if its instances are gone."""
        if launch.response is None:
            return None
        found = [machines.find(instance_id) for instance_id in launch.instance_ids]
        if all(pair is None or pair[1].state == "terminated" for pair in found):
            raise RefusalError(
                "IdempotentInstanceTerminated",
                "The client token you have provided is associated with instances that have been terminated.",
            )
        return launch.response

    def executed(self, call: Call) -> bool:
        """True if this very launch was done already."""
        with self._guard:
            launch = self._launches.get((call.region, call.params.get("ClientToken", "")))
        return launch is not None and launch.response is not None

    def forget(self, call: Call) -> None:
        """The launch failed: its token is free again."""
        with self._guard:
            self._launches.pop((call.region, call.params.get("ClientToken", "")), None)


def finish(call: Call, launch: Launch, response: bytes) -> list[Any]:
    """After moto did the launch: keep what it dropped, and make the instances pending. Returns them."""
    launch.response = response
    launch.instance_ids = list(dict.fromkeys(match.decode() for match in _INSTANCE_ID.findall(response)))
    instances = []
    for instance_id in launch.instance_ids:
        found = machines.find(instance_id)
        assert found is not None
        instance = found[1]
        market = machines.market_of(call.params)
        instance.lifecycle = None if market == "on-demand" else market
        instance.client_token = call.params.get("ClientToken")
        instance._placement.group_name = call.params.get("Placement.GroupName", "")
        instance.profile = (
            call.params.get("IamInstanceProfile.Name")
            or call.params.get("IamInstanceProfile.Arn", "").rpartition("/")[2]
            or None
        )
        _keep_template(call, instance)
        machines.set_state(instance, "pending")
        instances.append(instance)
    return instances


def _keep_template(call: Call, instance: Any) -> None:
    """Of a launch template moto drops metadata options, shutdown behaviour, profile and market."""
    wanted = {key.rpartition(".")[2]: value for key, value in call.params.items() if key.startswith("LaunchTemplate.")}
    if not wanted:
        return
    data = machines.backend(call.region)._get_template_from_args(wanted).data
    if "MetadataOptions.HttpTokens" not in call.params and (options := data.get("MetadataOptions")):
        instance.metadata_options.http_tokens = options.get("HttpTokens", "optional")
    if "InstanceInitiatedShutdownBehavior" not in call.params:
        behaviour = data.get("InstanceInitiatedShutdownBehavior")
        instance.instance_initiated_shutdown_behavior = behaviour or instance.instance_initiated_shutdown_behavior
    if instance.profile is None and (profile := data.get("IamInstanceProfile")):
        instance.profile = profile.get("Name") or profile.get("Arn", "").rpartition("/")[2]
    if instance.lifecycle is None and (options := data.get("InstanceMarketOptions")):
        instance.lifecycle = options.get("MarketType")
