"""web: a new user's way through the real app in a real browser (Debian's Chromium).

`make test-browser`; skipped where there is no playwright or no Chromium.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from PIL import Image

from svfit_diffusion.concept.file import read_concept, write_concept
from svfit_diffusion.training.subject import sample_folder

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
PHOTOS = sorted(sample_folder().glob("*.png"))
SAMPLE = sample_folder().parent / "robot.safetensors"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
)
TIMEOUT = 240_000  # ms; for a busy machine
TRAINING = 900_000  # ms, of a hundred steps there


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The app as `svfit app` serves it, with an empty library at first; one for all tests."""
    with served(tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.fixture
def own_url(tmp_path):
    """The same for one test, which needs a library of its own: tmp_path / "home"."""
    with served(tmp_path / "home") as address:
        yield address


@contextlib.contextmanager
def served(home, *options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"SVFIT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "svfit_diffusion.cli", "app", "--port", str(port), *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as app:
        try:
            assert "Open http://127.0.0.1" in app.stdout.readline()
            yield f"http://127.0.0.1:{port}/"
            app.terminate()
            app.wait(120)
        finally:  # also after a failure, which would wait for the app's end otherwise
            app.kill()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser, request):
    """A window; errors in the page's JavaScript fail the test."""
    width = getattr(request, "param", 1_280)
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(120_000)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
    assert not errors


def open_tab(page, url, tab):
    page.goto(url)
    page.get_by_role("tab", name=tab).click()
    page.wait_for_timeout(1_500)


def upload(page, where, *files):
    page.locator(f"{where} input[type=file]").set_input_files([str(file) for file in files])


def press_main_button(page):
    page.locator("button.go:visible").click()


def violations(page):
    """What axe-core calls serious or critical in the open tab."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        (rule["id"], node["html"][:200])
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def restored(page, prompt):
    """Whether the form's prompt and the pictures are there after a reload."""
    page.reload()
    page.get_by_role("tab", name="Generate").click()
    page.wait_for_function(
        "prompt => document.querySelector('#prompt textarea')?.value == prompt", arg=prompt
    )
    page.locator("#history img").nth(1).wait_for()
    return page.locator("#chips input:checked").count() == 1


def test_from_an_empty_app_to_a_shared_file_with_the_sample(page, url):
    page.goto(url)
    page.get_by_text("It cannot draw real photos").wait_for()
    page.get_by_text("Nothing was trained yet").wait_for()
    page.get_by_role("button", name="Try it with the sample").click()  # 1
    page.locator("#views img").nth(4).wait_for()
    page.locator("#known").get_by_text("Toybox knows such things.").wait_for(timeout=TIMEOUT)
    page.get_by_text("In prompts you will call it “toyrobot").wait_for()
    press_main_button(page)  # 2
    page.locator(".run.preparing").get_by_text(re.compile(r"photo \d of \d")).wait_for(
        timeout=TIMEOUT
    )
    page.locator(".run.training .strip img").first.wait_for(timeout=TIMEOUT)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#strip").get_by_text("Learning: “toyrobot").wait_for()
    page.wait_for_function("/^\\d+ % · SVFit$/.test(document.title)")
    page.get_by_role("tab", name="Train").click()
    page.reload()
    page.locator(".run.training").wait_for()
    page.locator(".run.done").wait_for(timeout=TRAINING)
    assert page.locator(".run .scenes img").count() == 6
    page.locator(".run .verdict").get_by_text("% like your photos").wait_for()
    assert page.locator(".run header").get_by_text("like your photos").count() == 1
    page.locator("#sheet img").wait_for()
    with page.expect_download() as got:
        page.locator("#download").click()  # 3
    assert got.value.suggested_filename == "toy_robot.safetensors"
    assert Path(got.value.path()).stat().st_size < 5_000

    page.locator("#use").click()
    page.locator("#chips input:checked").wait_for()
    prompt = page.locator("#prompt textarea").input_value()
    page.locator("#prompt textarea:visible").press("Control+Enter")
    page.locator("#live .tile").nth(1).wait_for(timeout=3_000)
    page.locator("#live .tile img").first.wait_for()
    assert not page.locator("#pictures").is_visible(), "the tiles have its place"
    page.locator("button.stop:visible").wait_for()
    page.wait_for_function("document.querySelectorAll('#pictures img').length >= 2")
    page.locator("button.go:visible").wait_for()
    page.locator("#pictures img").nth(1).wait_for()
    assert page.locator("#live .tile").count() == 0
    assert restored(page, prompt)
    page.locator("#history button").first.click()
    page.locator("#text textarea:visible").wait_for()
    assert '"toy_robot:1.0"' in page.locator("#text textarea").input_value()
    page.locator("#pictures img").first.wait_for()  # it is shown large, with its date
    page.locator("#pictures").get_by_text(re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d$")).wait_for()
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compared").get_by_text("toyrobot").wait_for()
    press_main_button(page)
    page.locator("#comparison img").first.wait_for(timeout=TIMEOUT)
    page.get_by_role("tab", name="Share").click()
    page.get_by_role("button", name="Export toy_robot as LoRA").click()
    page.get_by_role("button", name="Making the LoRA of toy_robot").wait_for(timeout=3_000)
    with page.expect_download(timeout=TRAINING) as got:  # after what Compare still generates
        page.locator("a[download='toy_robot-lora.zip']").first.click(timeout=TRAINING)
    with zipfile.ZipFile(got.value.path()) as archive:
        names = {"toy_robot.safetensors", "toy_robot.json", "toy_robot.png", "README.txt"}
        assert names <= set(archive.namelist())
        assert "ComfyUI" in archive.read("README.txt").decode()


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: make test-browser")
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_no_tab_has_a_serious_barrier(page, url, mode):
    page.goto(f"{url}?__theme={mode}")
    for tab in ("Train", "Generate", "Compare", "Share"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(3_000)
        assert violations(page) == [], tab


@pytest.mark.parametrize("page", [390], indirect=True)
def test_on_a_phone_files_of_others_two_concepts_reuse_and_stop(page, url, tmp_path):
    open_tab(page, url, "Share")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no concept")
    upload(page, "#concept-file", damaged)
    page.get_by_text("damaged.safetensors is not a usable concept file").wait_for()
    page.locator("#concept-file button[aria-label=Clear]").click()
    second = replace(read_concept(SAMPLE), license="CC0-1.0")  # another file, with its deltas
    for file in (SAMPLE, write_concept(second, tmp_path / "second.safetensors")):
        upload(page, "#concept-file", file)
        page.get_by_text("fits the base in use").wait_for()
        page.locator("#word input, #word textarea").first.wait_for()
        page.get_by_role("button", name="Add to my library").click()
        page.get_by_text(f"{file.stem} is in your library").first.wait_for()

    open_tab(page, url, "Generate")
    page.locator("#prompt textarea").fill("")
    for name in ("robot", "second"):  # both had the word "sks"
        page.locator("#chips").get_by_label(f"({name})").check()
        page.locator(".in-use").get_by_label(f"range slider for Strength of {name}").wait_for()
    prompt = page.locator("#prompt textarea").input_value()
    assert "sks toy and second" in prompt and prompt.endswith(" toy on the beach")
    press_main_button(page)
    page.locator("button.go:visible").wait_for(state="detached")
    page.locator("button.go:visible").wait_for(timeout=TIMEOUT)
    assert page.locator("#pictures img").count() == 2, page.locator("body").inner_text()[-500:]
    box = page.locator("#pictures img").first.bounding_box()
    assert box["y"] < 900, "the pictures are near the button"
    page.locator("#history img").first.wait_for()
    picture = tmp_path / "made.png"
    picture.write_bytes(httpx.get(page.locator("#pictures img").first.get_attribute("src")).content)
    page.locator("#prompt textarea").fill("something else")
    page.locator("#prompt-hints").get_by_text("robot is on, but the prompt").wait_for()
    page.get_by_text("Negative prompt, steps").click()
    upload(page, "#reuse-drop", picture)
    page.wait_for_function(
        "prompt => document.querySelector('#prompt textarea').value == prompt", arg=prompt
    )
    text = page.locator("#text textarea").input_value()
    assert "robot:1.0" in text and "second:1.0" in text
    page.locator("#chips").get_by_label("(second)").uncheck()
    page.locator("#prompt-hints").get_by_text("but second is off").wait_for()
    press_main_button(page)
    page.locator("#live .tile img").first.wait_for()
    page.locator("button.stop:visible").click()
    page.locator("#live").get_by_text("Stopped.").wait_for()
    page.locator("button.go:visible").wait_for()


def test_a_strength_that_is_typed_is_the_one_that_is_shown_and_used(page, own_url):
    open_tab(page, own_url, "Share")
    upload(page, "#concept-file", SAMPLE)
    page.get_by_role("button", name="Add to my library").click()
    page.get_by_text("is in your library").first.wait_for()
    open_tab(page, own_url, "Generate")
    page.locator("#chips").get_by_label("(robot)").check()
    field = page.locator(".in-use input[type=number]")
    field.wait_for()
    page.get_by_label("number input for Pictures").fill("1")
    page.locator("#prompt textarea").fill("a photo of a toy")
    for typed, used in (("0.5", "0.5"), ("2", "1.5"), ("-1", "0")):
        made = page.locator("#history button").count()
        field.fill(typed)
        press_main_button(page)
        page.locator("button.stop:visible").wait_for()
        page.locator("button.go:visible").wait_for()
        page.locator("#history button").nth(made).wait_for()
        page.locator("#history button").first.click()
        page.wait_for_function(
            "said => document.querySelector('#text textarea')?.value.includes(said)",
            arg=f'"robot:{float(used)}"',
        )
        assert float(field.input_value()) == float(used)
        assert page.get_by_text("maximum value").count() == 0


def test_a_photo_is_cropped_captioned_and_left_out(page, own_url, tmp_path):
    page.goto(own_url)
    page.get_by_role("button", name="Try it with the sample").click()
    tiles, caption = page.locator("#views button"), page.locator("#caption textarea")
    tiles.get_by_text("4 on a teal background").wait_for(timeout=TIMEOUT)  # as Toybox sees it
    tiles.nth(3).click()
    page.locator("#photo img").wait_for()
    assert caption.input_value() == "a photo of {} on a teal background"
    whole = page.locator("#photo img").get_attribute("src")
    page.get_by_label("number input for Zoom").fill("2")
    page.get_by_label("number input for Zoom").press("Tab")
    page.wait_for_function("whole => document.querySelector('#photo img').src != whole", arg=whole)
    caption.fill("a photo of {} in a box")
    page.locator("#photo-done").click()
    tiles.get_by_text("4 in a box").wait_for()
    tiles.nth(4).click()
    page.locator("#leave-out").click()
    tiles.nth(4).wait_for(state="detached")
    tiles.first.click()
    page.locator("#photo img").wait_for()
    caption.fill("a drawing of {}")
    press_main_button(page)  # what is on the page counts, without Done
    page.locator(".run.preparing, .run.training").wait_for(timeout=TIMEOUT)
    (photos,) = (tmp_path / "home" / "runs").glob("*/photos")
    word = (photos / "000.txt").read_text().removeprefix("a drawing of ")
    assert word.startswith("toyrobot") and word.endswith(" toy robot")
    assert (photos / "003.txt").read_text() == f"a photo of {word} in a box"
    assert (photos / "002.txt").read_text() == f"a photo of {word} on the grass"
    sides = [Image.open(path).width for path in sorted(photos.glob("*.png"))]
    assert len(sides) == 4 and sides[3] == sides[0] // 2
    page.locator("#stop").click()
    page.locator(".run.stopped, .run.cancelled").wait_for(timeout=TIMEOUT)


def test_stop_ends_a_training_and_a_second_must_wait(page, url):
    open_tab(page, url, "Train")
    upload(page, "#photos", *PHOTOS[:2])
    page.locator("#what textarea, #what input").first.fill("a robot")
    page.get_by_label("Thorough").check()
    press_main_button(page)
    page.locator(".run.training .strip img").first.wait_for(timeout=TIMEOUT)
    assert page.locator("button.go:visible").is_disabled()
    page.locator("#stop").click()
    page.locator(".run.stopped").wait_for(timeout=TIMEOUT)
    page.locator("#use").wait_for()
    page.locator("#resume").click()
    page.locator(".run.training").wait_for(timeout=TIMEOUT)
    assert page.locator("button.go:visible").is_disabled()
    page.locator("#stop").click()
    page.locator(".run.stopped").wait_for(timeout=TIMEOUT)


def test_after_a_mistake_the_button_is_back(page, url):
    open_tab(page, url, "Generate")
    page.locator("#prompt textarea").fill(" ")
    press_main_button(page)
    page.get_by_text("Write what to generate into the prompt first.").wait_for(timeout=TIMEOUT)
    page.locator("button.go:visible").wait_for()
    assert page.locator("#live").get_by_text("Waiting for its turn").count() == 0


def test_a_click_is_answered_at_once_while_another_window_generates(page, url):
    open_tab(page, url, "Generate")
    page.locator("#prompt textarea").fill("a photo of a toy")
    data = ["a photo of a toy", "", {}, 8, 0, 100, None, None, None]
    httpx.post(f"{url}gradio_api/call/generate", json={"data": data}).raise_for_status()
    press_main_button(page)
    waiting = page.locator("#live .message")
    waiting.get_by_text(re.compile("Waiting for its turn|in the queue")).wait_for(timeout=3_000)
    waiting.get_by_text(re.compile(r"^1st in the queue(, about \d+ s)?$")).wait_for()
    page.locator("button.stop:visible").click()
    page.locator("#live").get_by_text("Stopped.").wait_for()
    page.locator("button.go:visible").wait_for()


def test_a_full_queue_is_said_on_the_page(page, own_url):
    open_tab(page, own_url, "Generate")
    data = ["a photo of a toy", "", {}, 8, 0, 100, None, None, None]
    call = f"{own_url}gradio_api/call/generate"
    calls = [httpx.post(call, json={"data": data}) for _ in range(20)]
    refused = [call for call in calls if call.status_code == 503]
    assert refused and "jobs are waiting. Try again" in refused[0].json()["detail"]
    page.locator("#prompt textarea").fill("a photo of a toy")
    press_main_button(page)
    page.get_by_text("This application is currently busy. Please try again.").wait_for()
    page.locator("button.go:visible").wait_for()


def test_a_stranger_generates_on_the_public_page_in_a_frame(page, tmp_path):
    """As a Space shows it: on a page of another origin. What was made is gone when it is closed."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    other = write_concept(
        replace(read_concept(SAMPLE), token="zwx"), tmp_path / "other.safetensors"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with served(tmp_path / "home", "--public", "--concept", str(SAMPLE)) as address:
            frame_on_another_page(page, address, other)
            end = time.monotonic() + TIMEOUT / 1_000
            while made(temporary) and time.monotonic() < end:
                time.sleep(0.5)
            assert not made(temporary)
    assert not list((tmp_path / "home").glob("*"))


def frame_on_another_page(page, address, other):
    """Use the public page in a frame, then leave the page that it is on."""
    page.set_content(f'<iframe src="{address}" style="width: 1200px; height: 800px"></iframe>')
    frame = page.frame_locator("iframe")
    prompt = frame.locator("#prompt textarea")
    prompt.wait_for(timeout=TIMEOUT)
    assert prompt.input_value() == "a photo of sks toy on the beach"
    frame.locator("button.go").click()
    frame.locator("#pictures img").nth(1).wait_for(timeout=TIMEOUT)
    frame.locator("input[type=file]").set_input_files(str(other))
    frame.get_by_label("zwx toy").wait_for(timeout=TIMEOUT)
    assert frame.get_by_label("zwx toy").is_checked()
    assert prompt.input_value() == "a photo of zwx toy on the beach"
    frame.locator("button.go").click()
    frame.locator("#live").get_by_text("step").wait_for(timeout=TIMEOUT)
    frame.locator("button.go:visible").wait_for(timeout=TIMEOUT)
    page.goto("about:blank")


def made(temporary):
    """The pictures and added files of visitors that are there."""
    return [*temporary.glob("svfit-*/visits/*/pictures/*"), *temporary.rglob("other.safetensors")]
