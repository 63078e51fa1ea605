"""Starting Streamlit on the app with the right settings."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from analysis.theme import CATEGORICAL, FONT, GRID, INK, MUTED
from app.settings import RUNS_VARIABLE, ZOO_VARIABLE
from modelzoo.console import console
from modelzoo.errors import UserError
from modelzoo.store import Zoo

HOST = "localhost"
FIRST_PORT = 8501
OPTIONS = {
    "server.headless": "true",
    "server.address": HOST,
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "logger.enableRich": "false",  # whose tracebacks go to the output, not to the errors
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "theme.base": "light",
    "theme.primaryColor": CATEGORICAL[0],
    "theme.textColor": INK,
    "theme.borderColor": GRID,
    "theme.grayColor": MUTED,
    "theme.font": FONT,
    "theme.baseFontSize": "15",
    "theme.baseRadius": "6px",
    "theme.secondaryBackgroundColor": "#F5F6F8",
}


def is_free(port: int) -> bool:
    """Whether nothing listens on the port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True


def choose_port(port: int | None) -> int:
    """The wanted port, or the first free one; raises `UserError` when it is taken."""
    if port is not None:
        if not is_free(port):
            raise UserError(f"port {port} is taken or not allowed; choose another with --port, or leave --port out.", 2)
        return port
    for candidate in range(FIRST_PORT, FIRST_PORT + 100):
        if is_free(candidate):
            return candidate
    raise UserError(f"no port from {FIRST_PORT} to {FIRST_PORT + 99} is free; name one with --port.")


def command(port: int) -> list[str]:
    """The command line of the Streamlit server."""
    options = [f"--{name}={value}" for name, value in {**OPTIONS, "server.port": str(port)}.items()]
    return [sys.executable, "-m", "streamlit", "run", str(Path(__file__).with_name("main.py")), *options]


def stop(number: int, frame: object) -> None:
    """Leave as after an interrupt, through every `finally`; a shell sees 128 + the signal."""
    raise SystemExit(128 + number)


def run(zoo: Path | None, runs: Path | None, port: int | None) -> None:
    """Serve until interrupted; raises `UserError` when there is no zoo at the path or the port is taken."""
    if zoo is not None:
        Zoo.open(zoo)
    if runs is not None and not runs.is_dir():
        raise UserError(f"there is no folder {str(runs)!r}; name the folder that metazoo train wrote its runs to.")
    chosen = choose_port(port)
    environment = dict(os.environ)
    for variable, path in ((ZOO_VARIABLE, zoo), (RUNS_VARIABLE, runs)):
        environment.pop(variable, None)
        if path is not None:
            environment[variable] = str(path)
    console.print(f"Metazoo is at http://{HOST}:{chosen}  (Ctrl-C stops it)", highlight=False)
    server = subprocess.Popen(command(chosen), env=environment, stdout=subprocess.DEVNULL)
    before = signal.signal(signal.SIGTERM, stop)  # by default it would end this process and leave the server alone
    try:
        code = server.wait()
    except KeyboardInterrupt:
        code = 0
    finally:
        signal.signal(signal.SIGTERM, before)
        if server.poll() is None:
            server.terminate()
            server.wait()
    if code:
        raise UserError(f"the app stopped with exit code {code}; its messages are above.")
