"""The metadata service of one simulated instance (IMDSv2), on a loopback port of its own.

Never on 169.254.169.254: what runs on the instance takes the address from AWS_EC2_METADATA_SERVICE_ENDPOINT, as boto3
does. Without a token every request is refused, unless the instance was launched with HttpTokens=optional.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ROLE_SECONDS = 6 * 3600


def utc(seconds: float) -> str:
    """A time as AWS writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class MetadataService:
    """Serves `documents` (path below /latest/ -> text) with IMDSv2's rules. `start` before use, `stop` after."""

    def __init__(self, documents: Mapping[str, str], *, token_required: bool) -> None:
        self.documents = dict(documents)
        self.token_required = token_required
        self._tokens: dict[str, float] = {}
        self._guard = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                service.give_token(self)

            def do_GET(self) -> None:
                service.give_document(self)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="imds", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, path: str, text: str) -> None:
        """Publish a document below /latest/, for example a spot notice."""
        with self._guard:
            self.documents[path] = text

    def give_token(self, request: BaseHTTPRequestHandler) -> None:
        seconds = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if request.path != "/latest/api/token":
            _reply(request, 404, "")
        elif request.headers.get("X-Forwarded-For"):
            _reply(request, 403, "")
        elif not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            _reply(request, 400, "")
        else:
            token = secrets.token_urlsafe(40)
            with self._guard:
                self._tokens[token] = time.monotonic() + int(seconds)
            _reply(request, 200, token, {"X-aws-ec2-metadata-token-ttl-seconds": seconds})

    def give_document(self, request: BaseHTTPRequestHandler) -> None:
        token = request.headers.get("X-aws-ec2-metadata-token")
        with self._guard:
            valid = token is not None and self._tokens.get(token, 0.0) > time.monotonic()
            if not valid and (token is not None or self.token_required):
                _reply(request, 401, "")
                return
            path = request.path.partition("?")[0].removeprefix("/latest/")
            text = self.documents.get(path.rstrip("/"))
            if text is None:
                names = {name[len(path) :].partition("/")[0] for name in self.documents if name.startswith(path)}
                text = "\n".join(sorted(names)) if path.endswith("/") and names else None
        if text is None:
            _reply(request, 404, "")
        else:
            _reply(request, 200, text)


def _reply(request: BaseHTTPRequestHandler, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
    body = text.encode()
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Type", "text/plain")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def role_access_key(instance_id: str) -> str:
    """The access key of an instance's role, so that the journal tells who called."""
    return "ASIA" + instance_id.removeprefix("i-").upper()[-16:].rjust(16, "0")


def instance_documents(instance: Any, region: str, role: str | None) -> dict[str, str]:
    """The documents of an instance of moto's, path -> text."""
    identity = {
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "region": region,
        "availabilityZone": instance.availability_zone,
        "imageId": instance.image_id,
        "privateIp": instance.private_ip,
        "accountId": instance.owner_id,
    }
    documents = {
        "dynamic/instance-identity/document": json.dumps(identity),
        "meta-data/instance-id": instance.id,
        "meta-data/instance-type": instance.instance_type,
        "meta-data/instance-life-cycle": instance.lifecycle or "on-demand",
        "meta-data/ami-id": instance.image_id,
        "meta-data/ami-launch-index": str(instance.ami_launch_index),
        "meta-data/local-ipv4": instance.private_ip,
        "meta-data/placement/availability-zone": instance.availability_zone,
        "meta-data/placement/region": region,
        "meta-data/events/maintenance/scheduled": "[]",
        "meta-data/autoscaling/target-lifecycle-state": "InService",
    }
    if instance.metadata_options.instance_metadata_tags == "enabled":
        for tag in instance.get_tags():
            documents[f"meta-data/tags/instance/{tag['key']}"] = tag["value"]
    if role is not None:
        now = time.time()
        credentials = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": utc(now),
            "AccessKeyId": role_access_key(instance.id),
            "SecretAccessKey": "simulated-secret-of-" + instance.id,
            "Token": "simulated-token-of-" + instance.id,
            "Expiration": utc(now + ROLE_SECONDS),
        }
        documents["meta-data/iam/info"] = json.dumps({"Code": "Success", "InstanceProfileArn": role})
        documents["meta-data/iam/security-credentials"] = role
        documents[f"meta-data/iam/security-credentials/{role}"] = json.dumps(credentials)
    return documents
