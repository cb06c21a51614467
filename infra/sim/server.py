"""The simulated AWS endpoint: one threaded server on loopback, for every service and region.

    request -> read whole -> fault? -> semantics that moto lacks -> moto's dispatcher -> after-work -> journal

/_simulator/VERB is the control address (see control.py): no part of AWS, only for tests and `--simulate`.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import socket
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from infra.sim import answers, launching, machines
from infra.sim.faults import Faults, Rule
from infra.sim.hosts import HostAgent
from infra.sim.journal import Journal
from infra.sim.quotas import Quotas
from infra.sim.wire import Call, TornRequestError, put_body, read_call

CONTROL = "/_simulator/"
_SECRET_PARAMETERS = ("UserData",)
_EC2 = "http://ec2.amazonaws.com/doc/2016-11-15/"


class QuietHandler(MotoRequestHandler):
    """moto's handler of requests (headers with underscores), without a line per request."""

    def log(self, *_: Any) -> None:
        return


class Cloud:
    """The WSGI application."""

    def __init__(self, hosts: HostAgent, journal: Journal, faults: Faults, control: Callable[..., Any]) -> None:
        self.hosts = hosts
        self.journal = journal
        self.faults = faults
        self.quotas = Quotas()
        self._control = control
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._launches = launching.Launches()
        self._hidden: dict[str, float] = {}

    def __call__(self, environ: dict[str, Any], start_response: answers.StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "").startswith(CONTROL):
            return self._control(self, environ, start_response)
        try:
            call = read_call(environ)
        except TornRequestError as torn:
            self.journal.add(service="?", operation="torn request", caller="", status=400, error=str(torn), fault=None)
            return answers.error("s3", start_response, 400, "IncompleteBody", str(torn))
        facts = self._facts(call)
        rule = self.faults.hit(facts)
        seen: dict[str, Any] = {"status": 0, "error": None}
        try:
            return self._served(call, rule, environ, start_response, seen)
        finally:
            fault = f"{rule.effect}:{rule.error}" if rule is not None else None
            self.journal.add(**facts, fault=fault, **seen)

    def _served(
        self,
        call: Call,
        rule: Rule | None,
        environ: dict[str, Any],
        start_response: answers.StartResponse,
        seen: dict[str, Any],
    ) -> Iterable[bytes]:
        def refuse(status: int, code: str, message: str) -> Iterable[bytes]:
            seen.update(status=status, error=code)
            return answers.error(call.service, start_response, status, code, message)

        effect = rule.effect if rule is not None else None
        if rule is not None:
            if effect == "error":
                return refuse(rule.status, rule.error, rule.message)
            if effect == "delay":
                time.sleep(rule.seconds)
            elif effect == "lose_request":
                seen.update(error="connection lost before it was executed")
                return cut(environ)
            elif effect in {"corrupt", "truncate"} and call.body:
                # A last byte changed, or half of it: what a proxy or a torn upload would leave. moto stores it as it is.
                changed = call.body[: len(call.body) // 2] if effect == "truncate" else call.body[:-1] + b"\x00"
                put_body(environ, changed)
        elif (wrong := wrong_digest(environ, call)) is not None:
            return refuse(400, "BadDigest", f"The {wrong} you specified did not match what we received.")
        try:
            status, headers, body = self._execute(call, environ, rule, seen)
        except launching.RefusalError as refusal:
            return refuse(refusal.status, refusal.code, refusal.message)
        seen.update(status=status, error=error_code(status, body))
        if effect == "lose_response":
            seen.update(error="response lost")
            return cut(environ)
        start_response(f"{status} .", headers)
        return [body]

    def _execute(
        self, call: Call, environ: dict[str, Any], rule: Rule | None, seen: dict[str, Any]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        if call.service == "servicequotas":
            status, value = self.quotas.answer(call.operation, call.params)
            holder: dict[str, Any] = {}
            body = b"".join(answers.json_answer(lambda _line, headers: holder.update(headers=headers), status, value))
            return status, holder["headers"], body
        if call.service != "ec2":
            return self._forward(environ)
        if call.operation == "RunInstances":
            return self._run_instances(call, environ, rule, seen)
        if call.operation == "TerminateInstances":
            return self._terminate(call, environ, seen)
        if call.operation == "DescribeInstances":
            return self._describe(call, environ)
        if call.operation == "GetConsoleOutput":
            return self._console(call)
        return self._forward(environ)

    def _run_instances(
        self, call: Call, environ: dict[str, Any], rule: Rule | None, seen: dict[str, Any]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        if call.params.get("DryRun", "false").lower() == "true":
            launching.check(call)
            return self._forward(environ)
        launch = self._launches.of(call)
        with launch.guard:
            if (again := self._launches.replay(launch)) is not None:
                seen["instance_ids"], seen["replayed"] = launch.instance_ids, True
                return 200, [("Content-Type", "text/xml"), ("Content-Length", str(len(again)))], again
            try:
                launching.check(call)
                status, headers, body = self._forward(environ)
                if status == 200:
                    launching.finish(call, launch, body)
                    seen["instance_ids"] = launch.instance_ids
            finally:
                if launch.response is None:
                    self._launches.forget(call)
        if rule is not None and rule.effect == "hide":
            self._hidden.update(dict.fromkeys(launch.instance_ids, time.monotonic() + rule.seconds))
        return status, headers, body

    def _terminate(
        self, call: Call, environ: dict[str, Any], seen: dict[str, Any]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        named = [value for key, value in call.params.items() if key.startswith("InstanceId.")]
        pairs = [(pair[1], pair[1].state, pair[1].state_reason) for name in named if (pair := machines.find(name))]
        status, headers, body = self._forward(environ)
        seen["instance_ids"] = named
        if status == 200:
            for instance, previous, reason in pairs:
                if previous in {"shutting-down", "terminated"}:  # who ended it first stays the reason
                    instance.state_reason = reason
                self.hosts.terminate(instance, previous)
        return status, headers, body

    def _describe(self, call: Call, environ: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        hidden = {name for name, until in self._hidden.items() if until > time.monotonic()}
        for key, name in call.params.items():
            if key.startswith("InstanceId.") and name in hidden:
                raise launching.RefusalError("InvalidInstanceID.NotFound", f"The instance ID '{name}' does not exist")
        status, headers, body = self._forward(environ)
        if hidden and status == 200:
            body = without_instances(body, hidden)
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        return status, headers, body

    def _console(self, call: Call) -> tuple[int, list[tuple[str, str]], bytes]:
        name = call.params.get("InstanceId", "")
        if machines.find(name) is None:
            raise launching.RefusalError("InvalidInstanceID.NotFound", f"The instance ID '{name}' does not exist")
        host = self.hosts.hosts.get(name)
        text = host.console.read_bytes()[-65_536:] if host is not None and host.console.exists() else b""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        body = (
            f'<GetConsoleOutputResponse xmlns="{_EC2}"><requestId>{uuid.uuid4()}</requestId>'
            f"<instanceId>{name}</instanceId><timestamp>{stamp}</timestamp>"
            f"<output>{base64.b64encode(text).decode()}</output></GetConsoleOutputResponse>"
        ).encode()
        return 200, [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))], body

    def _forward(self, environ: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        """Let moto do it, and take its whole answer."""
        seen: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], None]:
            seen.update(status=int(status.split()[0]), headers=headers)
            return lambda _data: None

        chunks = self._moto(environ, start)
        try:
            body = b"".join(chunks)
        finally:
            if (close := getattr(chunks, "close", None)) is not None:
                close()
        return seen["status"], seen["headers"], body

    def _facts(self, call: Call) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "service": call.service,
            "operation": call.operation,
            "region": call.region,
            "caller": call.caller,
        }
        if call.service == "s3":
            facts.update(call.params, bytes=len(call.body))
        if call.service == "ec2":
            if call.operation == "RunInstances":
                facts["az"] = machines.zone_of(call.region, call.params)
                facts["instance_type"] = call.params.get("InstanceType", "")
                facts["market"] = machines.market_of(call.params)
                facts["client_token"] = call.params.get("ClientToken", "")
                facts["executed"] = self._launches.executed(call)
            facts["params"] = {k: v for k, v in call.params.items() if k not in _SECRET_PARAMETERS}
            facts["instance_id"] = call.params.get("InstanceId.1", call.params.get("InstanceId", ""))
        return facts


def cut(environ: dict[str, Any]) -> Iterable[bytes]:
    """End the connection without an answer."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def wrong_digest(environ: dict[str, Any], call: Call) -> str | None:
    """The header whose digest does not fit the body; moto takes any."""
    if call.service != "s3" or environ.get("HTTP_CONTENT_ENCODING", "").startswith("aws-chunked"):
        return None
    for header, algorithm in (("HTTP_X_AMZ_CHECKSUM_SHA256", hashlib.sha256), ("HTTP_CONTENT_MD5", hashlib.md5)):
        told = environ.get(header)
        if told is not None and base64.b64encode(algorithm(call.body).digest()).decode() != told:
            return "SHA256" if algorithm is hashlib.sha256 else "Content-MD5"
    return None


def error_code(status: int, body: bytes) -> str | None:
    """The code in an error answer."""
    if status < 400:
        return None
    found = re.search(rb'<Code>([^<]+)</Code>|"__type":\s*"([^"]+)"', body)
    return (found[1] or found[2]).decode() if found else str(status)


def without_instances(body: bytes, hidden: set[str]) -> bytes:
    """An answer of DescribeInstances as if these were not known yet."""
    root = ET.fromstring(body)
    if (namespace := root.tag.partition("}")[0].lstrip("{")) != root.tag:
        ET.register_namespace("", namespace)
    for reservations in root.findall("{*}reservationSet"):
        for reservation in list(reservations):
            if any(found.text in hidden for found in reservation.findall(".//{*}instanceId")):
                reservations.remove(reservation)
    return ET.tostring(root)


class Server:
    """The application on a free loopback port. `start`, `stop`."""

    def __init__(self, port: int = 0) -> None:
        self.application: Callable[..., Any] = lambda _environ, _start: [b""]
        self._server = make_server(
            "127.0.0.1",
            port,
            lambda environ, start: self.application(environ, start),
            threaded=True,
            request_handler=QuietHandler,
        )
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


logging.getLogger("werkzeug").setLevel(logging.ERROR)
