"""The playground in a real browser: what a person sees, with the keyboard alone, and what a screen reader is told."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.npm_package import npm_package
from tests.unit.small_tokenizers import byte_level

pytest.importorskip("selenium")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

TEXT = "The quick brown fox"
WITHIN_S = 15


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture
def open_page(browser: webdriver.Chrome) -> Iterator[Callable[[Script], FakeTriton]]:
    """Opens the page of a gateway whose model plays a script."""
    with contextlib.ExitStack() as stack:

        def opened(script: Script) -> FakeTriton:
            triton = stack.enter_context(FakeTriton({"tensorrt_llm": script}))
            browser.get(stack.enter_context(gateway(services_for(triton.address))))
            wait(browser, lambda: status(browser) == "Ready.")
            return triton

        yield opened


def wait(browser: webdriver.Chrome, condition: Callable[[], Any]) -> None:
    WebDriverWait(browser, WITHIN_S, poll_frequency=0.05).until(lambda _: condition())


def text_of(browser: webdriver.Chrome, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def status(browser: webdriver.Chrome) -> str:
    return text_of(browser, "#status")


def ask(browser: webdriver.Chrome, text: str) -> None:
    """As with the keyboard: the message field has the focus or gets it by the skip link."""
    browser.find_element(By.ID, "prompt").send_keys(text, Keys.ENTER)


def said(text: str, delay_s: float = 0.0) -> Script:
    return Script(pieces=[[token] for token in byte_level().encode(text)], delay_s=delay_s)


def test_a_question_is_answered_as_it_streams_with_its_figures(
    browser: webdriver.Chrome, open_page: Callable[[Script], FakeTriton]
) -> None:
    open_page(said(TEXT, delay_s=0.02))
    ask(browser, "fox?")
    wait(browser, lambda: status(browser) == "The answer is complete.")
    assert text_of(browser, ".message.user p") == "fox?"
    assert text_of(browser, ".message.assistant p") == TEXT
    assert text_of(browser, "#tokens") == str(len(byte_level().encode(TEXT)))
    assert text_of(browser, "#ttft").endswith(" ms")
    assert float(text_of(browser, "#speed")) > 0


def test_the_settings_and_the_whole_chat_reach_the_model(
    browser: webdriver.Chrome, open_page: Callable[[Script], FakeTriton]
) -> None:
    triton = open_page(said(TEXT))
    browser.execute_script("document.getElementById('system').value = 'Be brief.'")
    browser.execute_script("document.getElementById('max_tokens').value = '77'")
    browser.execute_script("document.getElementById('temperature').value = '0'")
    for number, question in enumerate(("one?", "two?"), start=1):
        ask(browser, question)
        wait(browser, lambda number=number: len(browser.find_elements(By.CSS_SELECTOR, ".assistant")) == number)
        wait(browser, lambda: status(browser) == "The answer is complete.")
    last = triton.received[-1].inputs
    prompt = byte_level().decode(last["input_ids"])
    assert prompt == f"<system>Be brief.<user>one?<assistant>{TEXT}<user>two?<assistant>"
    assert last["request_output_len"] == [77]


def test_escape_stops_the_answer_and_ends_the_request_at_the_server(
    browser: webdriver.Chrome, open_page: Callable[[Script], FakeTriton]
) -> None:
    triton = open_page(said("word " * 400, delay_s=0.05))
    ask(browser, "go on")
    wait(browser, lambda: text_of(browser, ".message.assistant p"))
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(browser, lambda: status(browser) == "Stopped.")
    assert triton.wait_until_cancelled()


def test_a_refusal_is_shown_and_the_question_is_not_lost(
    browser: webdriver.Chrome, open_page: Callable[[Script], FakeTriton]
) -> None:
    open_page(said(TEXT))
    ask(browser, "long " * 700)
    wait(browser, lambda: "this model takes at most" in text_of(browser, "#problem"))
    assert browser.find_element(By.ID, "prompt").get_attribute("value").startswith("long long")
    assert not browser.find_elements(By.CSS_SELECTOR, ".message")


def test_what_a_model_says_is_text_and_never_page(
    browser: webdriver.Chrome, open_page: Callable[[Script], FakeTriton]
) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    open_page(said(evil))
    ask(browser, evil)
    wait(browser, lambda: status(browser) == "The answer is complete.")
    assert text_of(browser, ".message.assistant p") == evil
    assert not browser.find_elements(By.CSS_SELECTOR, "#log img, #log script")


def test_the_page_loads_nothing_from_elsewhere_and_says_nothing_in_the_console(
    browser: webdriver.Chrome, open_page: Callable[[Script], FakeTriton]
) -> None:
    browser.get_log("browser")
    open_page(said(TEXT))
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    origin = browser.execute_script("return location.origin")
    assert loaded
    assert not [url for url in loaded if not url.startswith(origin)]
    complaints = [entry for entry in browser.get_log("browser") if entry["level"] in {"WARNING", "SEVERE"}]
    assert not [entry for entry in complaints if "/metrics" not in entry["message"]]  # a stand-in has none


def test_every_control_is_reached_by_the_tab_key(
    browser: webdriver.Chrome, open_page: Callable[[Script], FakeTriton]
) -> None:
    open_page(said(TEXT))
    reached = set()
    for _ in range(30):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(browser.switch_to.active_element.get_attribute("id"))
    assert {"model", "clear", "log", "prompt", "send", "system", "temperature", "seed", "key"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing(
    browser: webdriver.Chrome, open_page: Callable[[Script], FakeTriton], scheme: str
) -> None:
    axe = (npm_package("axe-core", "4.14.1") / "axe.min.js").read_text()
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    open_page(said(TEXT))
    ask(browser, "fox?")
    wait(browser, lambda: status(browser) == "The answer is complete.")
    browser.execute_script(axe)  # by the driver: the page's own policy would refuse it
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    problems = [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found["violations"]]
    assert not problems, json.dumps(problems, indent=1)
