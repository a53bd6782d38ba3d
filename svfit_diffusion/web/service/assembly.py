"""The app: the page and its API on one workspace, with one queue; or the public page alone."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ..page import build_page, build_public_page
from ..studio import GenerationJobs, Visitors, Workspace
from .endpoints import build_api

QUEUE = 16  # jobs that may wait
CACHE = (3_600, 86_400)  # seconds: each hour, delete what is older than a day


def build_app(workspace: Workspace, names: Sequence[str] = ()) -> gr.Blocks:
    """The app, with these concepts of the workspace's library in use from the start."""
    jobs = GenerationJobs(workspace)
    with gr.Blocks(title="SVFit", analytics_enabled=False, delete_cache=CACHE) as page:
        build_api(workspace, jobs)  # first: an endpoint's name goes to the first event that has it
        build_page(page, workspace, jobs, names)
    return page.queue(max_size=QUEUE, api_open=False, default_concurrency_limit=2)


def build_public_app(visitors: Visitors) -> gr.Blocks:
    """The public page, without an API."""
    with gr.Blocks(title="SVFit", analytics_enabled=False, delete_cache=CACHE) as page:
        build_public_page(page, visitors)
    return page.queue(max_size=QUEUE, api_open=False, default_concurrency_limit=2)
