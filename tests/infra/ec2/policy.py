"""Compares what was called with what the shipped policies allow; moto itself checks nothing."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

import infra.ec2

POLICIES = Path(infra.ec2.__file__).parent / "policies"
# What an operation of S3 needs, where its name is not the permission's.
S3_NEEDS = {
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "ListObjects": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "DeleteObjects": "s3:DeleteObject",
    "CopyObject": "s3:PutObject",
}


def statements(name):
    return json.loads((POLICIES / f"{name}.json").read_text())["Statement"]


def needed(call):
    """(permission, resource or None)."""
    if call["service"] != "s3":
        return f"{call['service']}:{call['operation']}", None
    permission = S3_NEEDS.get(call["operation"], f"s3:{call['operation']}")
    place = call.get("key") if permission != "s3:ListBucket" and call["operation"] != "DeleteObjects" else ""
    return permission, f"arn:aws:s3:::BUCKET/{place}" if place else None


def not_allowed(name, calls):
    """What the policy would have refused."""
    refused = set()
    for call in calls:
        permission, resource = needed(call)
        fits = [
            statement
            for statement in statements(name)
            if permission in statement["Action"]
            and (resource is None or any(fnmatchcase(resource, pattern) for pattern in statement["Resource"]))
        ]
        if not fits:
            refused.add((permission, resource))
    return refused
