"""web.studio.visitors and the public page: strangers see nothing of each other, within bounds."""

import json
import shutil
import time

import httpx
import pytest
from helpers.tiny_pipelines import load, make_concept
from PIL import Image

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import write_concept
from svfit_diffusion.generation import Parameters, read_parameters
from svfit_diffusion.web.service import server
from svfit_diffusion.web.service.assembly import build_public_app
from svfit_diffusion.web.service.clients import RequestRate, RequestRefused
from svfit_diffusion.web.studio.visitors import (
    MAX_IDLE,
    MAX_OWN_CONCEPTS,
    MAX_VISITS,
    Visitors,
)


@pytest.fixture
def visitors(workspace, files, tmp_path):
    """Visitors who may use rex, by a clock that the test sets."""
    now = [0.0]
    visitors = Visitors(workspace.pipeline, tmp_path / "visits", [files["rex"]], lambda: now[0])
    visitors.now = now
    return visitors


def names(visit):
    return set(visit.workspace.library.names())


def test_a_visitor_has_what_is_offered_and_what_is_their_own(visitors, files):
    ann, ben = visitors.of("ann"), visitors.of("ben")
    assert visitors.add("ann", files["max"]) == "max"
    assert names(ann) == {"rex", "max"} and names(ben) == {"rex"}
    assert visitors.of("ann") is ann
    ann.workspace.library.delete("rex")
    assert names(visitors.of("cleo")) == {"rex"}, "each has a copy of what is offered"


def test_what_a_visitor_has_goes_with_them(visitors, files):
    ann = visitors.of("ann")
    visitors.add("ann", files["max"])
    visitors.of("ben")
    visitors.forget("ann")
    assert not ann.folder.exists() and visitors.of("ben").folder.exists()
    assert names(visitors.of("ann")) == {"rex"}
    visitors.forget("nobody")


def test_a_picture_that_a_job_saves_meanwhile_goes_too(visitors, monkeypatch):
    """The folder was deleted around it, and stayed with it."""
    history, delete, refused = visitors.of("ann").workspace.history, shutil.rmtree, []

    def save_then_delete(*args, **options):
        with pytest.raises(OSError) as error:
            history.add(Image.new("RGB", (8, 8)), Parameters("a photo of rex", seed=1))
        refused.append(error.value)
        delete(*args, **options)

    monkeypatch.setattr(shutil, "rmtree", save_then_delete)
    visitors.forget("ann")
    assert refused and len(list(visitors.folder.iterdir())) == 1, "what everybody is offered"


def test_who_does_nothing_for_an_hour_is_forgotten(visitors):
    ann, ben = visitors.of("ann"), visitors.of("ben")
    visitors.now[0] = MAX_IDLE / 2
    visitors.of("ben")
    visitors.now[0] = MAX_IDLE + 1
    visitors.forget_idle()
    assert not ann.folder.exists() and ben.folder.exists()


def test_visitors_are_bounded_and_the_latest_stay(visitors):
    first = visitors.of("0")
    for number in range(1, MAX_VISITS + 1):
        visitors.of(str(number))
    assert visitors.count() == MAX_VISITS and not first.folder.exists()
    assert len(list(visitors.folder.iterdir())) == MAX_VISITS + 1, "theirs, and what is offered"


@pytest.mark.parametrize(
    ("file", "reason"), [("other", "this page has"), ("bad", "bad.safetensors")]
)
def test_a_file_of_another_base_or_none_at_all_is_not_added(visitors, files, file, reason):
    with pytest.raises(ValueError, match=reason):
        visitors.add("ann", files[file])
    assert names(visitors.find("ann")) == {"rex"} and not visitors.count()


def test_a_visitor_may_add_some_files(visitors, base_folder, tmp_path):
    pipe = load(base_folder)
    for number in range(MAX_OWN_CONCEPTS + 1):
        concept = make_concept(pipe, seed=10 + number)
        file = write_concept(concept, tmp_path / f"{number}.safetensors")
        if number == MAX_OWN_CONCEPTS:
            with pytest.raises(ValueError, match="reload it to begin again"):
                visitors.add("ann", file)
        else:
            visitors.add("ann", file)


def test_a_rate_is_of_each_client_and_of_the_last_minute():
    now = [0.0]
    rate = RequestRate(3, lambda: now[0])
    for _ in range(3):
        rate.count("ann")
    now[0] = 20
    with pytest.raises(RequestRefused, match="again in 40 seconds") as refused:
        rate.count("ann")
    assert refused.value.status == 429 and refused.value.wait == 40
    rate.count("ben")
    now[0] = 60.5
    rate.count("ann")


@pytest.fixture(scope="module")
def public(workspace, files, tmp_path_factory):
    """The public page as `svfit app --public` serves it: its address and its visitors."""
    folder = tmp_path_factory.mktemp("public")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setattr(server, "PUBLIC_RATE", 1_000)
        visitors = Visitors(workspace.pipeline, folder / "visits", [files["rex"]])
        page = build_public_app(visitors)
        yield server.launch(page, "127.0.0.1", None, visitors=visitors)[1], visitors
        page.close(verbose=False)


@pytest.fixture
def hurried(visitors, tmp_path, monkeypatch):
    """The address of a public page where a client has three jobs a minute."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(server, "PUBLIC_RATE", 3)
    page = build_public_app(visitors)
    yield server.launch(page, "127.0.0.1", None, visitors=visitors)[1]
    page.close(verbose=False)


def number_of(url, function):
    """The number of the event that calls a function of PublicActions."""
    found = httpx.get(f"{url}config").json()["dependencies"]
    return next(each["id"] for each in found if each["api_name"] == function)


def join(url, function, session, *data):
    """Ask for an event of the page, as a browser does, and return the answer."""
    body = {"data": data, "fn_index": number_of(url, function), "session_hash": session}
    return httpx.post(f"{url}gradio_api/queue/join", json=body)


def result(url, function, session, *data):
    """The last values of an event's outputs, or its error."""
    join(url, function, session, *data).raise_for_status()
    text = httpx.get(f"{url}gradio_api/queue/data", params={"session_hash": session}).text
    said = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    return next(each for each in said if each["msg"] == "process_completed")["output"]


def generate(url, session, concept="rex"):
    """The last values of a job of one picture."""
    return result(url, "generate", session, concept, 1, "a sks dog", 1, False, 7)


def upload(url, path, name=None):
    """Upload a file, as a browser does."""
    with open(path, "rb") as file:
        return httpx.post(f"{url}gradio_api/upload", files={"files": (name or path.name, file)})


def run(url, function, session, *data):
    """Call an event that is not queued, as a browser does."""
    body = {"data": data, "fn_index": number_of(url, function), "session_hash": session}
    return httpx.post(f"{url}gradio_api/run/predict", json=body)


def test_a_picture_is_its_visitors_and_goes_when_they_leave(public, tmp_path):
    url, visitors = public
    assert "error" not in generate(url, "ann")
    (picture,) = visitors.of("ann").workspace.history.last()
    address = f"{url}gradio_api/file={picture.path}"
    copy = tmp_path / "copy.png"
    copy.write_bytes(httpx.get(address).raise_for_status().content)
    assert read_parameters(copy).seed == 7 and read_parameters(copy).concepts == (("rex", 1.0),)
    assert not visitors.of("ben").workspace.history.last()
    named = {"path": str(picture.path), "meta": {"_type": "gradio.FileData"}}
    result(url, "add", "ben", named, "")
    assert picture.path.exists(), "who was given its address cannot delete it"
    with httpx.stream("GET", f"{url}gradio_api/heartbeat/ann") as heart:
        next(heart.iter_raw())  # the page is open, until the connection ends
    until = time.monotonic() + 60
    while picture.path.exists() and time.monotonic() < until:
        time.sleep(0.2)
    assert not picture.path.exists() and httpx.get(address).status_code in (403, 404)


def test_an_added_file_is_its_visitors_and_the_upload_goes_at_once(public, files):
    url, visitors = public
    (path,) = upload(url, files["max"]).raise_for_status().json()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    choices, facts, prompt = result(url, "add", "cleo", file, "")["data"]
    assert (
        choices["value"] == "max" and "zwx" in facts and prompt == "a photo of zwx dog on the beach"
    )
    assert names(visitors.of("cleo")) == {"rex", "max"} and names(visitors.of("dan")) == {"rex"}
    assert httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404)
    assert "error" not in generate(url, "cleo", "max")
    assert "not in the list of choices" in generate(url, "dan", "max")["error"]
    chosen = run(url, "choose", "cleo", "rex", "two zwx dog").json()["data"]
    assert chosen == ["two sks dog"]


def test_a_file_that_is_no_concept_is_explained(public, files):
    url, visitors = public
    (path,) = upload(url, files["bad"]).raise_for_status().json()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    _, facts, _ = result(url, "add", "eve", file, "")["data"]
    assert "bad.safetensors" in facts and names(visitors.of("eve")) == {"rex"}


def test_only_small_concept_files_can_be_uploaded(public, tmp_path):
    url, _ = public
    (tmp_path / "large.safetensors").write_bytes(bytes(1_100_000))
    (tmp_path / "huge.safetensors").write_bytes(bytes(2_100_000))
    assert upload(url, tmp_path / "large.safetensors").status_code == 413
    assert upload(url, tmp_path / "huge.safetensors").status_code == 413
    assert upload(url, tmp_path / "large.safetensors", "photo.png").status_code == 415


def test_a_path_of_the_machine_is_no_upload(public, files):
    url, visitors = public
    for path in (files["max"], "/etc/passwd"):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        answer = join(url, "add", "fay", file, "")
        assert answer.status_code != 200 or "zwx" not in str(result(url, "add", "fay", file, ""))
    assert files["max"].exists() and names(visitors.of("fay")) == {"rex"}


def test_there_is_one_page_with_one_job_and_nothing_else(public):
    """No training, library, history, export or base of the app's own page, and no API."""
    url, _ = public
    info = httpx.get(f"{url}gradio_api/info").json()
    assert not info["named_endpoints"] and not info["unnamed_endpoints"]
    for path in ("openapi.json", "call/generate/1"):
        assert httpx.get(f"{url}gradio_api/{path}").status_code in (403, 404), path
    for name in ("generate", "train", "library", "use_base", "add"):
        answer = httpx.post(f"{url}gradio_api/call/{name}", json={"data": []})
        assert answer.status_code in (403, 404), name
    found = httpx.get(f"{url}config").json()
    assert {each["api_name"] for each in found["dependencies"] if each["queue"]} == {
        "add",
        "generate",
        "leave",
    }
    labels = {each["props"].get("label") for each in found["components"]}
    assert not labels & {"Base", "Steps", "Width, px", "A concept file or a LoRA from somebody"}
    assert run(url, "generate", "gus", "rex", 1, "a sks dog", 1, False, 7).status_code == 404


def test_any_page_may_show_it_in_a_frame(public):
    url, _ = public
    foreign = {
        "Host": "owner-name.hf.space",
        "Origin": "https://huggingface.co",
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "iframe",
    }
    answer = httpx.get(url, headers=foreign)
    assert answer.status_code == 200 and "x-frame-options" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_client_has_so_many_jobs_and_uploads_a_minute(hurried, files):
    for session in "abc":
        assert join(hurried, "generate", session, "rex", 1, "a dog", 1, False, 7).status_code == 200
    answer = join(hurried, "generate", "d", "rex", 1, "a dog", 1, False, 7)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) <= 60
    assert "That was a lot at once" in answer.json()["detail"]
    assert upload(hurried, files["max"]).status_code == 429
    assert httpx.get(hurried).status_code == 200, "the page can be read"


def test_a_public_app_has_no_password(capsys):
    assert main(["app", "--public", "--auth", "me:secret"]) == 2
    assert "--public has no password" in capsys.readouterr().err


def test_adding_counts_as_a_job(hurried, files):
    """Else one client could make visitors without end, and have all others forgotten."""
    body = {"fn_index": number_of(hurried, "add"), "data": [None, ""], "session_hash": "x"}
    answer = httpx.post(f"{hurried}gradio_api/run/predict", json=body)
    assert answer.status_code == 404
    codes = [httpx.post(f"{hurried}gradio_api/queue/join", json=body).status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]


def test_a_file_that_would_be_computed_for_long_is_refused(visitors, files, monkeypatch):
    monkeypatch.setattr("svfit_diffusion.web.studio.visitors.MAX_BASIS", 1_000)
    with pytest.raises(ValueError, match="trains so many values that this page would compute"):
        visitors.add("ann", files["max"])
    assert not visitors.count()
