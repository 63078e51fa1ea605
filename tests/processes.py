"""Ports and processes of tests that start a server."""

import ctypes
import signal
import socket
import sys

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def unused_port(host: str) -> int:
    """A port of the operating system's choice, so that whoever asks at the same time is told another one.

    Not `app.server.choose_port`, which starts from one number: of two test runs on a machine, the second would find the
    first one's server behind its own address, and lose it when the first run is over.
    """
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """In a child before it starts: be terminated when the parent ends, however that happens (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
