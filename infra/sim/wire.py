"""One AWS call as it comes over the wire: which service, which operation, with what.

The request body is always read whole, also of calls that are then refused: a client that is still sending when it gets
its answer sees a connection reset instead.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

_CREDENTIAL = re.compile(r"Credential=(?P<key>[^/]+)/\d+/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
# What a request to S3 asks for, by method and by a word of its query; the first that fits.
_S3_OPERATIONS = (
    ("POST", "uploads", "CreateMultipartUpload"),
    ("POST", "uploadId", "CompleteMultipartUpload"),
    ("POST", "delete", "DeleteObjects"),
    ("PUT", "partNumber", "UploadPart"),
    ("DELETE", "uploadId", "AbortMultipartUpload"),
    ("GET", "uploads", "ListMultipartUploads"),
    ("GET", "list-type", "ListObjectsV2"),
)
_S3_OBJECT = {
    "PUT": "PutObject",
    "GET": "GetObject",
    "HEAD": "HeadObject",
    "DELETE": "DeleteObject",
    "POST": "PostObject",
}
_S3_BUCKET = {
    "PUT": "CreateBucket",
    "GET": "ListObjects",
    "HEAD": "HeadBucket",
    "DELETE": "DeleteBucket",
    "POST": "PostBucket",
}


@dataclass(frozen=True)
class Call:
    """params: query parameters of EC2, STS and IAM; the top level of a JSON body; bucket, key and query of S3."""

    service: str
    operation: str
    region: str
    caller: str  # the access key: an instance's role has one of its own
    params: dict[str, Any]
    body: bytes = field(repr=False)


class TornRequestError(ConnectionError):
    """The body ended before its announced length."""


def read_body(environ: dict[str, Any]) -> bytes:
    """Take the whole body and leave a copy in its place. Raises TornRequestError."""
    stream = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH")
    if length:
        body = stream.read(int(length))
        if len(body) < int(length):  # the client died while it sent: nothing of it is stored
            raise TornRequestError(f"{len(body)} of {length} bytes came")
    elif environ.get("wsgi.input_terminated"):  # chunked transfer
        body = stream.read()
    else:
        body = b""
    put_body(environ, body)
    return body


def put_body(environ: dict[str, Any], body: bytes) -> None:
    """Replace the body of a request before it goes on."""
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ.pop("HTTP_TRANSFER_ENCODING", None)


def read_call(environ: dict[str, Any]) -> Call:
    """Name the call. An unsigned request is taken for S3 in us-east-1, as moto does."""
    body = read_body(environ)
    found = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    service = found["service"].lower() if found else "s3"
    region = found["region"] if found else "us-east-1"
    caller = found["key"] if found else ""
    if service == "s3":
        operation, params = _s3(environ)
        return Call(service, operation, region, caller, params, body)
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return Call(service, target.rpartition(".")[2], region, caller, json.loads(body or b"{}"), body)
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    query.update(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    return Call(service, query.get("Action", environ.get("PATH_INFO", "")), region, caller, query, body)


def _s3(environ: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    bucket, _, key = unquote(environ.get("PATH_INFO", "/")).lstrip("/").partition("/")
    method = environ["REQUEST_METHOD"]
    if not bucket:
        return "ListBuckets", {}
    names = (name for verb, word, name in _S3_OPERATIONS if verb == method and word in query)
    operation = next(names, (_S3_OBJECT if key else _S3_BUCKET)[method])
    if operation == "PutObject" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
        operation = "CopyObject"
    prefix = {"prefix": query["prefix"]} if "prefix" in query else {}
    return operation, {"bucket": bucket, "key": key, **prefix}
