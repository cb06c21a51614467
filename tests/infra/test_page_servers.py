"""Servers of a tree: shared by their holders, gone with the last one. A small HTTP server stands for the big ones."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin

import psutil
import pytest

from infra import servers
from infra.errors import InfraError
from infra.servers import (
    ServerSpec,
    check_prefect_reachable,
    free_port,
    hold,
    mlflow_spec,
    prefect_spec,
    running_server,
)
from infra.settings import load_settings

SMALL = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def small(folder: Path, code: str = SMALL) -> ServerSpec:
    return ServerSpec(
        name="Small",
        folder=folder,
        log=folder / "log" / "small.log",
        arguments=("-c", code),
        environment={},
        health_path="/health",
        preferred_port=0,
    )


def wait_for(condition, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_server_is_shared_and_ends_with_its_last_holder(tmp_path):
    spec = small(tmp_path)
    with hold(spec) as first:
        first.wait_until_healthy(20.0)
        with hold(spec) as second:
            assert second.port == first.port
        assert running_server(spec) is not None
        second.wait_until_healthy(5.0)
    wait_for(lambda: not first.is_alive())
    assert running_server(spec) is None
    with hold(spec) as third:
        third.wait_until_healthy(20.0)


def test_server_that_dies_while_it_is_held_comes_back_at_its_address(tmp_path):
    with hold(small(tmp_path)) as server:
        server.wait_until_healthy(20.0)
        first = server.supervisor_pid
        psutil.Process(first).kill()
        wait_for(lambda: server.healthy.is_set() and server.supervisor_pid != first)
        server.wait_until_healthy(5.0)
    wait_for(lambda: not server.is_alive())


def test_killed_holder_lets_go(tmp_path):
    code = (
        f"import sys, os; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); from pathlib import Path\n"
        "from tests.infra.test_page_servers import small\nfrom infra.servers import hold\n"
        f"with hold(small(Path({str(tmp_path)!r}))) as server:\n"
        "    server.wait_until_healthy(20.0); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    wait_for(lambda: running_server(small(tmp_path)) is None)


def test_server_that_dies_at_its_start_is_told_with_the_end_of_its_log(tmp_path):
    with (
        hold(small(tmp_path, "raise SystemExit('no such database')")) as server,
        pytest.raises(InfraError, match=r"(?s)ended at its start.*no such database"),
    ):
        server.wait_until_healthy(20.0)


def test_server_that_never_answers_is_given_up(tmp_path):
    with (
        hold(small(tmp_path, "import time; time.sleep(60)")) as server,
        pytest.raises(InfraError, match="did not answer within"),
    ):
        server.wait_until_healthy(0.5)


def test_pid_file_that_names_another_process_is_not_believed(tmp_path):
    (tmp_path / "server.json").write_text(f'{{"port": 1, "pid": {psutil.Process().pid}}}')
    assert running_server(small(tmp_path)) is None
    (tmp_path / "server.json").write_text("half a li")
    assert running_server(small(tmp_path)) is None


def test_taken_port_is_replaced_by_a_free_one():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port


def test_prefect_of_the_user_that_is_down_is_an_error_with_a_remedy():
    with pytest.raises(InfraError, match=r"127\.0\.0\.1:9/api \(PREFECT_API_URL\) does not answer.*unset"):
        check_prefect_reachable("http://127.0.0.1:9/api")


def test_prefect_home_and_database_lie_in_the_tree(tmp_path):
    environment = prefect_spec(load_settings(tmp_path, {})).environment
    assert environment["PREFECT_HOME"] == str(tmp_path / ".state" / "prefect")
    assert environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"].endswith("/.state/prefect/prefect.db")
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "PREFECT_API_URL" not in environment


@pytest.mark.slow
@pytest.mark.parametrize("make_spec", [prefect_spec, mlflow_spec])
def test_real_servers_start_and_stop(tmp_path, make_spec):
    spec = make_spec(load_settings(tmp_path, {}))
    with hold(spec) as server:
        server.wait_until_healthy()
    wait_for(lambda: not server.is_alive())


@pytest.mark.slow
def test_the_page_of_a_prefect_server_asks_that_server_whoever_has_the_usual_port(tmp_path):
    spec = replace(prefect_spec(load_settings(tmp_path, {})), preferred_port=free_port(0))
    with hold(spec) as server:
        server.wait_until_healthy()
        with urllib.request.urlopen(f"{server.address}/ui-settings", timeout=30) as answer:
            asked = json.loads(answer.read())["api_url"]
        assert urljoin(server.address, asked) == f"{server.address}/api"


SILENT = SMALL.replace("import http", "import socket, http").replace(
    "http.server.HTTPServer((",
    """
port = int(sys.argv[sys.argv.index("--port") + 1])
with socket.socket() as probe:
    if probe.connect_ex(("127.0.0.1", port)) == 0: sys.exit("this port is somebody's")
http.server.HTTPServer((""",
)


@contextmanager
def port_taken_after_our_look(monkeypatch) -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        looks = iter([busy])  # the first look came before the other server's bind
        monkeypatch.setattr(servers, "free_port", lambda preferred: next(looks, None) or free_port(preferred))
        yield busy


@pytest.mark.parametrize("code", [SMALL, SILENT], ids=["names the error", "has its own words"])
def test_a_server_whose_port_was_taken_meanwhile_moves_to_another(tmp_path, monkeypatch, code):
    with port_taken_after_our_look(monkeypatch) as busy, hold(small(tmp_path, code)) as server:
        assert server.port == busy
        server.wait_until_healthy()
        assert server.port != busy


@pytest.mark.slow
@pytest.mark.parametrize("make_spec", [prefect_spec, mlflow_spec])
def test_real_servers_move_too(tmp_path, monkeypatch, make_spec):
    spec = make_spec(load_settings(tmp_path, {}))
    with port_taken_after_our_look(monkeypatch) as busy, hold(spec) as server:
        server.wait_until_healthy()
        assert server.port != busy


def test_a_taker_that_has_gone_again_is_known_from_the_log(tmp_path):
    spec = small(tmp_path)
    spec.log.parent.mkdir()
    server = servers.Server(spec=spec, port=free_port(0))
    assert not server._lost_its_port()
    spec.log.write_text("Port 4200 is already \nin use. Please specify a different port")
    assert server._lost_its_port()
