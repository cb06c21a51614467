"""Error answers in the three dialects that AWS speaks: EC2's XML, S3's XML, JSON."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from xml.sax.saxutils import escape

StartResponse = Any  # of WSGI


def answer(start_response: StartResponse, status: int, content_type: str, body: bytes) -> Iterable[bytes]:
    """A whole response."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    start_response(f"{status} {phrase}", [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]


def error(service: str, start_response: StartResponse, status: int, code: str, message: str) -> Iterable[bytes]:
    """An error as the clients of that service parse it."""
    request_id = str(uuid.uuid4())
    code, message = escape(code), escape(message)
    if service == "s3":
        body = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
        return answer(start_response, status, "application/xml", body.encode())
    if service in {"ec2"}:
        body = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
        return answer(start_response, status, "text/xml", body.encode())
    if service in {"sts", "iam"}:
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return answer(start_response, status, "text/xml", body.encode())
    return json_answer(start_response, status, {"__type": code, "message": message})


def json_answer(start_response: StartResponse, status: int, value: Any) -> Iterable[bytes]:
    """A JSON response."""
    return answer(start_response, status, "application/x-amz-json-1.1", json.dumps(value, default=str).encode())
