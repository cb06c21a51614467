"""`longfuse serve` as a process with a tiny model: the official client, one pass and agent, then SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.tiny_chat_model import write_tiny_model

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # a process that loads torch


def start(model, *flags, **environment):
    command = [sys.executable, "-m", "flows.cli", "serve", "--port", "0", "--threads", "1", "--dtype", "float32"]
    return subprocess.Popen(
        [*command, "--model", str(model), *flags],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process") / "tiny"
    write_tiny_model(folder)
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_answers_and_ends_cleanly_on_a_signal(model, number):
    process = start(model, "--grace-seconds", "1", LONGFUSE_API_KEY="s3cret")
    try:
        ready = process.stdout.readline()
        address = re.fullmatch(r"Serving tiny at (http://127\.0\.0\.1:\d+/v1)\n", ready)
        assert address, ready + process.stderr.read()
        client = openai.OpenAI(base_url=address[1], api_key="s3cret", max_retries=0, timeout=60)
        question = {"role": "user", "content": "Who?"}
        short = client.chat.completions.create(model="tiny", messages=[question], max_tokens=5)
        assert short.usage.completion_tokens <= 5
        assert short.longfuse == {"mode": "one_pass"}
        book = {"role": "user", "content": "A line of a book. " * 150}
        options = {"model": "tiny", "messages": [book, question], "max_tokens": 20, "temperature": 1, "seed": 5}
        whole = client.chat.completions.create(**options)
        chunks = list(client.chat.completions.create(**options, stream=True))
        assert whole.longfuse["turns"] > 4
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=address[1], api_key="other", max_retries=0).models.list()
        long = {"role": "user", "content": "A line of a book. " * 5_000}  # minutes of reading: more than the grace
        under_way = client.chat.completions.create(
            model="tiny",
            messages=[long, question],
            max_tokens=1000,
            stream=True,
            extra_body={"longfuse": {"mode": "agent"}},
        )
        chunks = iter(under_way)
        next(chunks)
        process.send_signal(number)
        with pytest.raises(openai.APIError, match="the server is being stopped"):
            list(chunks)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
