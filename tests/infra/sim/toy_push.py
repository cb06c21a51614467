"""Uploads the toy's output in one attempt, as `dvc push` would: toy_push.py BUCKET KEY FILE.

Without boto3, whose import takes most of a second; the simulator does not check signatures.
"""

import os
import sys
import urllib.request
from pathlib import Path

bucket, key, path = sys.argv[1:]
scope = f"Credential=ASIATOY/20260101/{os.environ['AWS_DEFAULT_REGION']}/s3/aws4_request"
request = urllib.request.Request(
    f"{os.environ['AWS_ENDPOINT_URL']}/{bucket}/{key}",
    method="PUT",
    data=Path(path).read_bytes(),
    headers={
        "Content-Type": "application/octet-stream",
        "Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0",
    },
)
with urllib.request.urlopen(request, timeout=10) as response:
    print("pushed", response.status)
