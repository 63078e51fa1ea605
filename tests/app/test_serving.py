"""`metazoo app`: what it refuses, in one sentence and before anything starts; what it hands to the pages."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import server
from app.settings import RUNS_VARIABLE, ZOO_VARIABLE, runs_path, zoo_path
from modelzoo.errors import UserError
from modelzoo.store import Zoo


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind((server.HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """No server is started; its command lines and environments are kept instead."""
    started: list[list[str]] = []

    class Server:
        def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
            started.append([*command, *(f"{key}={env[key]}" for key in (ZOO_VARIABLE, RUNS_VARIABLE) if key in env)])

        def wait(self) -> int:
            return 0

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(server.subprocess, "Popen", Server)
    return started


def test_refuses_a_path_without_a_zoo(tmp_path: Path, no_server: list[list[str]]) -> None:
    with pytest.raises(UserError, match="there is no zoo at"):
        server.run(tmp_path / "zoo", None, None)
    with pytest.raises(UserError, match="is not a zoo"):
        server.run(tmp_path, None, None)
    assert not no_server


def test_refuses_a_missing_folder_of_runs(small_zoo: Zoo, tmp_path: Path, no_server: list[list[str]]) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*runs.*metazoo train"):
        server.run(Path(small_zoo.path), tmp_path / "runs", None)
    assert not no_server


def test_refuses_a_port_that_is_taken(taken: int, no_server: list[list[str]]) -> None:
    with pytest.raises(UserError, match=f"port {taken} is taken") as caught:
        server.run(None, None, taken)
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="port 70000 is taken or not allowed"):
        server.run(None, None, 70_000)
    assert not no_server


def test_takes_the_first_free_port(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_PORT", taken)
    assert taken < server.choose_port(None) < taken + 100


def test_hands_zoo_and_runs_to_the_pages(small_zoo: Zoo, tmp_path: Path, no_server: list[list[str]]) -> None:
    server.run(Path(small_zoo.path), tmp_path, None)
    (started,) = no_server
    assert f"{ZOO_VARIABLE}={small_zoo.path}" in started
    assert f"{RUNS_VARIABLE}={tmp_path}" in started
    assert any(part.endswith("main.py") for part in started)


def test_tracebacks_of_pages_reach_the_terminal(no_server: list[list[str]]) -> None:
    server.run(None, None, None)
    (started,) = no_server
    assert "--logger.enableRich=false" in started  # rich prints them to the output, which is thrown away


def test_a_server_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, no_server: list[list[str]]) -> None:
    monkeypatch.setattr(server.subprocess.Popen, "wait", lambda _: 3)
    with pytest.raises(UserError, match="exit code 3"):
        server.run(None, None, None)


def test_runs_are_looked_for_beside_the_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {})
    assert zoo_path() is None
    assert runs_path() is None
    os.environ[ZOO_VARIABLE] = str(tmp_path / "zoo")
    assert runs_path() == tmp_path
    os.environ[ZOO_VARIABLE] = "s3://bucket/zoo"
    assert runs_path() is None
    os.environ[RUNS_VARIABLE] = str(tmp_path / "elsewhere")
    assert runs_path() == tmp_path / "elsewhere"


def test_the_command_prints_one_sentence_and_exits_with_1(tmp_path: Path) -> None:
    import typer

    from app.commands import register

    command = typer.Typer()
    register(command)
    result = CliRunner().invoke(command, ["--zoo", str(tmp_path / "nothing")])
    assert isinstance(result.exception, UserError)
    assert result.exception.exit_code == 1


def test_a_terminated_command_takes_its_server_along(
    monkeypatch: pytest.MonkeyPatch, no_server: list[list[str]]
) -> None:
    ended = []

    def killed(_: object) -> int:
        if not ended:
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr(server.subprocess.Popen, "wait", killed)
    monkeypatch.setattr(server.subprocess.Popen, "poll", lambda _: None)
    monkeypatch.setattr(server.subprocess.Popen, "terminate", lambda _: ended.append(True), raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        server.run(None, None, None)
    assert ended
    assert signal.getsignal(signal.SIGTERM) is before
