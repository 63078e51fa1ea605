"""The Chromium that the browser tests drive. As a script: make sure that there is one, or say in one sentence what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
MISSING = (
    "there is no Chromium for the browser tests and none could be installed; install one (apt-get install chromium, or "
    "playwright install chromium) and run the tests again."
)


def find() -> str | None:
    """Path of a Chromium: the system's, else playwright's own."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


def provide() -> str | None:
    """Path of a Chromium, installed if need be: by the system's package manager as root, else by playwright."""
    commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        commands[:0] = [["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]]
    for command in commands:
        if found := find():
            return found
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return find()


if __name__ == "__main__":
    chromium = provide()
    print(f"browser tests use {chromium}" if chromium else MISSING)  # the tests fail with the same sentence
