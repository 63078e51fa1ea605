"""What tests of servers stand on: ports of their own, servers that end with the test run, groups that stay together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import unused_port

ROOT = Path(__file__).parents[1]
HOST = "localhost"


def test_two_runs_at_once_get_their_own_ports() -> None:
    with socket.socket() as other:
        other.bind((HOST, unused_port(HOST)))
        other.listen()
        ports = {unused_port(HOST) for _ in range(20)}
        assert other.getsockname()[1] not in ports
        assert len(ports) > 1  # a counter from a fixed number would name one port twenty times


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent ended")
def test_server_does_not_outlive_a_killed_test_run() -> None:
    script = (
        "import subprocess, sys; from tests.processes import die_with_parent;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(600)'], preexec_fn=die_with_parent);"
        "child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"1\n"
    parent.kill()
    assert parent.stdout.read() == b""  # ends when nobody holds the pipe any more: the child is gone
    parent.wait()


def test_grouped_tests_run_in_one_worker(tmp_path: Path) -> None:
    (tmp_path / "test_workers.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('i', range(6))\n"
        "def test_grouped(i): print('grouped in', os.environ['PYTEST_XDIST_WORKER'])\n"
        "@pytest.mark.parametrize('i', range(12))\n"
        "def test_alone(i): print('alone in', os.environ['PYTEST_XDIST_WORKER'])\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "--dist", "loadgroup", "-rP", "-p", "no:cacheprovider"]  # fmt: skip
    bare = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the other plugins take seconds to load
    lines = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, env=bare).stdout.splitlines()  # fmt: skip
    assert len({line for line in lines if line.startswith("alone in gw")}) == 2  # the control
    grouped = {line for line in lines if line.startswith("grouped in gw")}
    assert len(grouped) == 1, "pytest and pytest-xdist do not fit together; install the versions of constraints.txt"
