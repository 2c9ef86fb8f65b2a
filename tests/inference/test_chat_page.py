"""The page as people use it, in headless Chromium without any network but this machine's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from lightning_apollo.inference.answer import answer, question
from lightning_apollo.inference.trained import load_checkpoint
from lightning_apollo.inference.trained_model import TrainedModel
from tests.inference.chat_server import ChatServer, served
from tests.weights.stages import videollama3_with_clips

pytestmark = pytest.mark.slow
T = TypeVar("T")

BOX, FILES = "#question textarea", "#question input[type=file]"
QUESTION = "Which colour came first?"
DEADLINE_SECONDS = 60


class Page:
    def __init__(self, address: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in (
            *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1366,900"),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        self.driver.get(address)
        self.until(lambda: self.all(BOX))

    def until(self, condition: Callable[[], T]) -> T:
        wait = WebDriverWait(self.driver, DEADLINE_SECONDS, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition())

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def add(self, *paths: Path) -> None:
        shown = len(self.all("#question .thumbnail-item"))
        self.driver.execute_script("document.querySelector(arguments[0]).value = ''", FILES)  # Selenium adds to it
        self.all(FILES)[0].send_keys("\n".join(map(str, paths)))
        self.until(lambda: len(self.all("#question .thumbnail-item")) == shown + len(paths))

    def ask(self, text: str) -> None:
        self.all(BOX)[0].send_keys(text, Keys.ENTER)

    def said(self, role: str) -> list[str]:
        """All turns of the user or the bot."""
        return [text.strip() for text in self.texts(f"#conversation .message.{role}")]

    def is_ready(self) -> bool:
        return bool(self.all("#question .submit-button")) and not self.all("#question .stop-button")

    def facts(self) -> dict[str, str]:
        return dict(zip(self.texts("#facts dt"), self.texts("#facts dd"), strict=True))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videollama3_with_clips(tmp_path_factory.mktemp("runs"))[1]


@pytest.fixture(scope="module")
def clips(stage: Path) -> list[Path]:
    return sorted((stage.parent / "shapes" / "clips").iterdir())


@pytest.fixture(scope="module")
def trained(stage: Path) -> TrainedModel:
    return load_checkpoint(str(stage))


@pytest.fixture(scope="module")
def server(stage: Path, clips: list[Path]) -> Iterator[ChatServer]:
    with served(stage, "--max-new-tokens", 8, "--examples", clips[0].parent) as server:
        yield server


@pytest.fixture
def page(server: ChatServer) -> Iterator[Page]:
    page = Page(server.address)
    try:
        yield page
    finally:
        page.driver.quit()


def test_upload_ask_read_see_and_ask_again(page: Page, trained: TrainedModel, clips: list[Path]) -> None:
    page.add(clips[0])
    page.ask(QUESTION)
    page.until(lambda: page.is_ready() and page.facts())
    expected = answer(trained, QUESTION, videos=[clips[0]], max_new_tokens=8).rstrip("\ufffd")
    assert page.said("bot") == [expected]
    assert page.said("user")[-1].endswith(QUESTION)
    assert page.all("#conversation video")

    facts = page.facts()
    (item,) = trained.preparer.prompt(question(QUESTION, [clips[0]]), Path()).visuals
    assert facts["Frames"] == str(len(item.frames))
    captions = page.texts("#frames .caption-label")
    assert [caption.split(" · ")[0] for caption in captions] == [f"{time:.1f} s" for time in item.frames.pts_seconds]
    kept = sum(int(caption.split(" · ")[1].split("/")[0]) for caption in captions)
    tokens = item.num_visual_tokens(trained.preparer.settings.patch_size)
    assert facts["Visual tokens"] == f"{tokens}, {kept} after reduction (budget 64)"
    assert kept < tokens
    assert facts["First token"].endswith(" s")
    assert facts["Answer tokens"].endswith(" a second")
    loaded = "return Array.from(document.querySelectorAll('#frames img')).map(i => i.naturalWidth)"
    assert page.until(lambda: min(page.driver.execute_script(loaded))) > 0

    page.ask("And then?")
    page.until(lambda: page.is_ready() and len(page.said("bot")) == 2)
    assert int(page.facts()["Text tokens"]) > int(facts["Text tokens"])
    assert page.facts()["Frames"] == facts["Frames"]  # the video of the first turn is still there

    page.all("#conversation button[aria-label=Clear]")[0].click()
    page.until(lambda: not page.said("bot") and not page.facts())
    names = page.driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in names if not name.startswith("http://127.0.0.1:")] == []
    assert [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_broken_file_is_one_message_and_the_question_can_be_asked_of_another(
    page: Page, clips: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "holiday.mp4"
    broken.write_bytes(b"PK\x03\x04" + b"0" * 100)
    page.add(broken)
    page.ask(QUESTION)
    page.until(lambda: page.texts(".toast-body"))
    assert "holiday.mp4: neither a video (MP4" in page.texts(".toast-body")[0]
    page.until(page.is_ready)
    assert page.said("bot") == []
    assert page.all(BOX)[0].get_attribute("value") == QUESTION
    page.all("#question .thumbnail-item button")[0].click()
    page.until(lambda: not page.all("#question .thumbnail-item"))
    page.add(clips[1])
    page.ask("")
    page.until(lambda: page.said("bot"))


def test_a_clip_of_the_examples_is_chosen(page: Page, clips: list[Path]) -> None:
    box = page.all("#examples input")[0]
    box.click()
    page.until(lambda: page.all("[role=listbox] [role=option]"))
    box.send_keys(clips[2].name, Keys.ENTER)
    page.until(lambda: page.all("#question .thumbnail-item"))
    page.ask(QUESTION)
    page.until(lambda: page.is_ready() and page.said("bot"))


def test_an_answer_is_stopped(stage: Path, clips: list[Path]) -> None:
    with served(stage, "--max-new-tokens", 5_000) as server:
        page = Page(server.address)
        try:
            page.add(clips[0])
            page.ask(QUESTION)
            page.until(lambda: page.said("bot"))
            page.until(lambda: page.all("#question .stop-button"))[0].click()
            page.until(page.is_ready)
            (stopped,) = page.said("bot")
            page.ask("And now?")
            page.until(lambda: len(page.said("bot")) == 2)  # the next question is answered: nothing happens behind it
            kept = page.said("bot")[0]  # what was on its way to the page when it stopped belongs to it
            assert kept.startswith(stopped)
            assert len(kept) < len(stopped) + 100
        finally:
            page.driver.quit()
