"""A server of `longfuse serve` in this process, with a scripted engine, on a real port."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import contextmanager

import openai

from flows.serve import ServeRequest, http_server, listen, server_settings
from flows.serve_app import ChatServer
from flows.serve_engine import EngineThread
from flows.serve_plan import Planner
from stages.engines.scripted_engine import ByteTokenizer, ScriptedEngine
from stages.memory.window import AgentLengths

WINDOW = 4_000
LENGTHS = AgentLengths(chunk=600, memory=120, plan=40, turn=200, answer=100)
TURN_MARK = "<section number="


def reader(prompt, request, index):
    """Counts sections in its memory, and says in the end what it holds; a prompt of one pass is answered by its length."""
    if "You read a long text section by section" in prompt:
        number = prompt.rsplit(TURN_MARK, 1)[1].split('"')[1]
        return f"<memory>read {number}</memory><plan>go on</plan>"
    if "You have read a long text" in prompt:
        return "The memory says: " + prompt.split("<memory>")[1].split("</memory>")[0]
    return f"Heard {len(prompt)} bytes."


@contextmanager
def said(text):
    """An event: the server has logged this."""
    noticed = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record):
            if text in record.getMessage():
                noticed.set()

    logger, listener = logging.getLogger("flows.serve_reply"), Listener()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    try:
        yield noticed
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


class Served:
    """What a test needs of a running server."""

    def __init__(self, server, http, engine, port):
        self.server = server
        self.http = http
        self.engine = engine
        self.url = f"http://127.0.0.1:{port}"

    def client(self, key="none"):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def wait_until_idle(self, seconds=10.0):
        """Until no answer is under way, in the server's own terms."""
        idle = threading.Event()

        async def watch():
            await self.server.slots.idle.wait()
            idle.set()

        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(watch()))
        assert idle.wait(seconds), "the server is still answering"


@contextmanager
def served(
    script=reader,
    *,
    key=None,
    start_trace=None,
    engine=None,
    tokenizer=None,
    lengths=LENGTHS,
    streaming="whole",
    **flags,
):
    """flags: of ServeRequest."""
    request = ServeRequest(host="127.0.0.1", port=0, **flags)
    engine = engine or ScriptedEngine(script, max_model_tokens=WINDOW)
    window = engine.max_model_tokens
    planner = Planner(tokenizer or ByteTokenizer(), window, lengths, window // 2)
    settings = server_settings(request, "scripted", key, lengths, streaming)
    server = ChatServer(EngineThread(engine), planner, settings, start_trace)
    ready = threading.Event()
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        holder = Served(server, None, engine, port)

        def on_ready():
            holder.loop = asyncio.get_running_loop()
            ready.set()

        holder.http = http_server(server, 1, on_ready)
        thread = threading.Thread(target=holder.http.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield holder
        finally:
            holder.http.should_exit = True
            thread.join(20)
            server.close()
            assert not thread.is_alive()
