"""The instance metadata service, version 2: what the cloud tells an instance about itself and about its end."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

DEFAULT_BASE = "http://169.254.169.254"
TOKEN_SECONDS = 3600


class Metadata:
    """A client. The address comes from the variable that boto3 reads as well."""

    def __init__(self, base: str | None = None, timeout_seconds: float = 2.0) -> None:
        self._base = (base or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_BASE).rstrip("/")
        self._timeout = timeout_seconds
        self._token: str | None = None

    def get(self, path: str) -> str | None:
        """A document below /latest/meta-data/; None if there is none, or if the service does not answer."""
        for _ in range(2):
            try:
                if self._token is None:
                    self._token = self._ask(
                        "PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
                    )
                return self._ask("GET", f"meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code != 401:  # 404: nothing was announced
                    return None
                self._token = None  # it expired
            except OSError:
                return None
        return None

    def spot_notice(self) -> dict[str, Any] | None:
        """{"action": "terminate", "time": ..} once this spot instance is about to be taken away."""
        return _parsed(self.get("spot/instance-action"))

    def rebalance(self) -> dict[str, Any] | None:
        """{"noticeTime": ..} once this instance is likelier than others to be taken away."""
        return _parsed(self.get("events/recommendations/rebalance"))

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{self._base}/latest/{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=self._timeout) as response:
            return str(response.read().decode())


def _parsed(text: str | None) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return {"text": text}
    return value if isinstance(value, dict) else {"text": text}
