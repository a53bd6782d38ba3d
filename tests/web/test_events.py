"""web.page.events: the main button is back whichever way its job ends."""

import gradio as gr
import pytest

from svfit_diffusion.web.page.events import click_to_generate, click_to_stop, go_and_stop


@pytest.fixture
def form():
    """The wiring of a form, and the ids of its live view and its two buttons."""
    with gr.Blocks() as page:
        go, stop = go_and_stop("Generate")
        live = gr.HTML()
        event = click_to_generate(go, stop, lambda: "", [], [live], live)
        click_to_stop(stop, go, lambda: None, event, live)
    dependencies = {found["id"]: found for found in page.config["dependencies"]}
    return dependencies, live._id, go._id, stop._id


def job_of(dependencies):
    return next(i for i, found in dependencies.items() if found["show_progress_on"])


@pytest.mark.parametrize("end", ["success", "failure"])
def test_each_end_of_a_job_shows_the_main_button_again(form, end):
    """Gradio's page calls `then` after no failure."""
    dependencies, live, go, stop = form
    after = [d for d in dependencies.values() if d["trigger_after"] == job_of(dependencies)]
    (found,) = [d for d in after if d[f"trigger_only_on_{end}"]]
    assert found["outputs"] == [live, go, stop] and not found["backend_fn"]


def test_a_click_is_answered_by_the_browser_alone(form):
    dependencies, live, go, stop = form
    for button in (go, stop):
        clicks = [d for d in dependencies.values() if (button, "click") in map(tuple, d["targets"])]
        assert clicks[0]["js"] and not clicks[0]["backend_fn"], "before anything is awaited"
    cancelling = [d for d in dependencies.values() if d["cancels"]]
    assert [d["cancels"] for d in cancelling] == [[job_of(dependencies)]]
    assert cancelling[0] is clicks[-1], "once the server was asked to stop"
