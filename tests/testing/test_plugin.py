from __future__ import annotations

from importlib import metadata

import pytest

from resumable_llm.testing import plugin

pytest_plugins = ["pytester"]

SERVER = """
import http.server
import threading

import httpx
import pytest

from resumable_llm.testing import Fault, FaultProxy

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: a\\n\\ndata: b\\n\\n")

    def log_message(self, *args):
        pass

@pytest.fixture
def upstream():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
"""


def test_fault_proxy_starts_proxies_and_closes_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        SERVER
        + """
started = []

def test_faults(upstream, fault_proxy):
    proxy = fault_proxy(upstream, Fault.end(at_event=1), None)
    other = fault_proxy(upstream)
    started.extend([proxy, other])
    assert isinstance(proxy, FaultProxy)
    assert [httpx.get(proxy.url).text for _ in range(2)] == ["data: a\\n\\n", "data: a\\n\\ndata: b\\n\\n"]
    assert httpx.get(other.url).text == "data: a\\n\\ndata: b\\n\\n"

def test_all_are_closed():
    for proxy in started:
        with pytest.raises(httpx.ConnectError):
            httpx.get(proxy.url)
    assert len(started) == 2
    assert not [thread for thread in threading.enumerate() if thread.name == "FaultProxy"]
"""
    )
    pytester.runpytest_inprocess("-W", "error").assert_outcomes(passed=2)


def test_instant_retries_is_a_policy_that_does_not_wait(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import resumable_llm as rl
import tenacity

def test_policy(instant_retries):
    assert isinstance(instant_retries, rl.RetryPolicy)
    assert isinstance(instant_retries.wait, type(tenacity.wait_none()))
"""
    )
    pytester.runpytest_inprocess("-W", "error").assert_outcomes(passed=1)


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    [entry_point] = metadata.entry_points(group="pytest11", name="resumable_llm")
    assert entry_point.load() is plugin
