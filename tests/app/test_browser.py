"""The app in a real browser: `metazoo app` is started, every page is opened and clicked, and what is drawn is counted."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from app.server import HOST
from modelzoo.store import Zoo
from tests import browser
from tests.processes import die_with_parent, unused_port

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]  # one server, one browser, one worker
SECONDS = 180  # of patience with a loaded machine; nothing is slow by itself
CHARTS = "[...document.querySelectorAll('.js-plotly-plot')]"


@pytest.fixture(scope="module")
def address(small_zoo: Zoo, small_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `metazoo app` serves the small zoo."""
    port = unused_port(HOST)
    command = [str(Path(sys.executable).with_name("metazoo")), "app", "--zoo", small_zoo.path, "--runs", str(small_runs), "--port", str(port)]  # fmt: skip
    log = tmp_path_factory.mktemp("app") / "log"
    with log.open("w") as errors:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, preexec_fn=die_with_parent)
    try:
        end = time.monotonic() + SECONDS
        while not answers(f"http://{HOST}:{port}/_stcore/health"):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, f"the app does not answer after {SECONDS} s: {log.read_text()}"
            time.sleep(0.2)
        yield f"http://{HOST}:{port}"
        assert server.poll() is None, f"the server ended during the tests: {log.read_text()}"
    finally:
        server.terminate()
        server.wait(SECONDS)
    assert not answers(f"http://{HOST}:{port}/_stcore/health"), "the server outlives the command that started it"
    assert "Traceback" not in log.read_text(), log.read_text()


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """One tab of a headless Chromium, the same for all tests."""
    found = browser.find()
    if found is None:
        pytest.fail(browser.MISSING)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=list(browser.FLAGS))
        page = chromium.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(SECONDS * 1000)
        expect.set_options(timeout=SECONDS * 1000)
        yield page
        chromium.close()


def open_page(tab: Page, url: str, name: str, charts: int) -> None:
    """Go to a page and wait until its end marker and its charts are drawn."""
    tab.goto(url)
    expect(tab.locator(".st-key-page-end")).to_contain_text(name)
    drawn(tab, charts)


def drawn(tab: Page, charts: int) -> None:
    """Wait until the script has ended and at least this many charts are drawn (more may hide in what is folded)."""
    expect(tab.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    tab.wait_for_function(f"{CHARTS}.filter(chart => chart.data && chart._fullLayout).length >= {charts}")
    tab.wait_for_function("!document.querySelector('[data-stale=true]')")


def points(tab: Page, key: str, trace: int = 0) -> int:
    """How many points a trace of a chart holds in the browser."""
    return int(tab.evaluate(f"document.querySelector('.st-key-{key} .js-plotly-plot')._fullData[{trace}].x.length"))


def count(tab: Page, selector: str) -> int:
    """How many elements of the page match."""
    return tab.locator(selector).count()


def middle(place: Locator) -> tuple[float, float]:
    """The middle of a drawn shape, once it stands still."""
    place.scroll_into_view_if_needed()  # which waits until the shape is the same in two frames
    box = place.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def click(tab: Page, chart: Locator, x: float, y: float) -> None:
    """Click a point of a chart as a hand does: rest on it, see its label, press.

    Plotly looks under the mouse at most every 50 ms; a look still due when the button goes down forgets the point. The
    page's own later timer ends after that of the look, however slow the machine.
    """
    tab.mouse.move(0, 0)
    tab.mouse.move(x, y)
    expect(chart.locator(".hoverlayer .hovertext").first).to_be_visible()
    tab.evaluate("() => new Promise(done => setTimeout(done, 100))")
    tab.mouse.down()
    tab.mouse.up()


def test_zoo_bar_selects_and_the_link_repeats_it(tab: Page, address: str, small_zoo: Zoo) -> None:
    open_page(tab, address, "Zoo", charts=7)
    assert "28 of 28 models selected" in tab.inner_text("body")
    chart = tab.locator(".js-plotly-plot", has_text="family").first
    bars = chart.locator(".bars").first.locator(".point")
    assert bars.count() == 2  # one bar a family
    click(tab, chart, *middle(bars.nth(1)))
    expect(tab.get_by_text("12 of 28 models selected")).to_be_visible()
    tab.wait_for_url("**filter=**")
    assert "small_cnn" in tab.url
    open_page(tab, tab.url, "Zoo", charts=7)
    assert "12 of 28 models selected" in tab.inner_text("body")


def test_model_shows_every_tensor_and_the_next_model(tab: Page, address: str, small_zoo: Zoo) -> None:
    open_page(tab, f"{address}/model?population=siren-digits-inr&model=3&view=Weights", "Model", charts=1)
    tensors = small_zoo["siren-digits-inr"].info.parameters
    assert count(tab, ".js-plotly-plot .heatmaplayer .hm") == len(tensors)
    before = tab.evaluate(f"{CHARTS}[0]._fullData[0].z[0][0]")
    tab.get_by_test_id("stNumberInputStepUp").click()
    tab.wait_for_url("**model=4**")
    tab.wait_for_function(f"{CHARTS}.length === 1 && {CHARTS}[0]._fullData[0].z[0][0] !== {before}")
    tab.get_by_text("Graph", exact=True).click()
    drawn(tab, 2)
    nodes = sum(1 for _ in tab.locator(".st-key-neurons .scatterlayer .point").all())
    assert nodes == 2 + 16 + 16 + 1 + 3  # inputs, two hidden layers, output, and where three biases begin


def test_metanet_point_leads_to_its_model(tab: Page, address: str, small_zoo: Zoo) -> None:
    open_page(tab, f"{address}/metanet?run=accuracy", "Metanet", charts=2)
    assert points(tab, "embeddings") == len(small_zoo["small-cnn-digits"])
    chart = tab.locator(".st-key-embeddings .js-plotly-plot")
    middle(chart)
    place: dict[str, Any] = tab.evaluate(
        """() => {
            const chart = document.querySelector('.st-key-embeddings .js-plotly-plot'), layout = chart._fullLayout
            const box = chart.querySelector('.nsewdrag').getBoundingClientRect(), trace = chart._fullData[0]
            return {x: box.x + layout.xaxis.d2p(trace.x[0]), y: box.y + layout.yaxis.d2p(trace.y[0]), name: trace.customdata[0]}
        }"""
    )
    click(tab, chart, place["x"], place["y"])
    link = tab.get_by_text(f"Open {place['name']}")
    expect(link).to_be_visible()
    link.click()
    expect(tab.locator(".st-key-page-end")).to_contain_text("Model")
    population, _, model = place["name"].rpartition("/")
    assert f"population={population}" in tab.url
    assert tab.get_by_test_id("stNumberInputField").input_value() == model


def test_metanet_confusion_matrix_has_a_cell_a_pair_of_digits(tab: Page, address: str, small_zoo: Zoo) -> None:
    open_page(tab, f"{address}/metanet?run=digit&split=train", "Metanet", charts=2)
    digits = small_zoo["siren-digits-inr"].table["label"].nunique()
    assert points(tab, "predictions") == digits
    assert count(tab, ".st-key-predictions .heatmaplayer .hm") == 1


def test_symmetry_slider_leaves_the_function_and_moves_the_weights(tab: Page, address: str) -> None:
    open_page(tab, f"{address}/symmetry?family=mlp", "Symmetry", charts=2)
    expect(tab.get_by_test_id("stAlert")).to_contain_text("random elements leave the function unchanged")
    assert points(tab, "path", trace=1) == 41
    assert "t = 1.00" in tab.inner_text("body")
    thumb = tab.get_by_role("slider")
    thumb.focus()
    thumb.press("ArrowRight")
    expect(tab.get_by_text("t = 1.10")).to_be_visible()
    tab.wait_for_url("**t=1.1**")
    weights = "document.querySelector('.st-key-weights-moved .js-plotly-plot')._fullData"
    largest: float = tab.evaluate(f"Math.max(...{weights}.filter(t => t.name.endsWith('difference')).map(t => Math.max(...t.z.map(r => Math.max(...r.map(Math.abs))))))")  # fmt: skip
    assert largest > 0.01
