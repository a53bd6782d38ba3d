"""web.page: every control that asks for something says what it is for."""

import pytest

from svfit_diffusion.web.service.assembly import build_app

ASKING = ("textbox", "number", "slider", "dropdown", "checkbox", "radio", "checkboxgroup")


@pytest.fixture(scope="module")
def controls(workspace):
    """The props of the page's controls. Those of the API's endpoints are in no tab."""
    page = build_app(workspace)
    inside = set()

    def walk(node, seen):
        seen = seen or kinds[node["id"]] == "tabs"
        if seen:
            inside.add(node["id"])
        for child in node.get("children") or []:
            walk(child, seen)

    kinds = {found["id"]: found["type"] for found in page.config["components"]}
    for node in page.config["layout"]["children"]:
        walk(node, False)
    return [
        found["props"]
        for found in page.config["components"]
        if found["id"] in inside
        and found["type"] in ASKING
        and found["props"].get("visible") != "hidden"
        and found["props"].get("interactive") is not False
    ]


def test_every_control_has_a_label_and_says_what_it_is_for(controls):
    assert len(controls) > 25
    assert all(found["label"] for found in controls)
    shown = ("Parameters",)  # of a picture: what is shown, and not asked for
    silent = [found["label"] for found in controls if not found.get("info")]
    assert [label for label in silent if label not in shown] == []
