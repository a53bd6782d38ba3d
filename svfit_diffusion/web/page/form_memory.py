"""What the form says survives a reload: it is kept in the user's browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..studio import Workspace
from .base_bar import own_settings
from .concepts_panel import ConceptsPanel
from .events import UNQUEUED

KEY = "svfit-form"


def remember_form(
    page: gr.Blocks, workspace: Workspace, fields: Sequence[Any], panel: ConceptsPanel
) -> None:
    """Keep the fields' values and the concepts in use, and restore them when the page is loaded.

    The last fields are those of `own_settings`: the base's own, unless they were kept with that
    base. Of concepts, those come back that fit it. To be called outside of all tabs: a tab's
    components exist once it is opened.
    """
    kept = gr.BrowserState({}, storage_key=KEY, secret=KEY)  # no secret: it is the user's browser

    def keep(chosen: dict, *values: Any) -> dict[str, Any]:
        return {"chosen": chosen, "values": list(values), "base": workspace.pipeline.base}

    def restore(found: Any, chosen: dict) -> tuple[Any, ...]:
        own = own_settings(workspace)
        values = found.get("values") if isinstance(found, dict) else None
        if not isinstance(values, list) or len(values) != len(fields):
            return (chosen, gr.skip(), *[gr.skip()] * (len(fields) - len(own)), *own)
        if found.get("base") != workspace.pipeline.base:
            values = [*values[: -len(own)], *own]
        names, held = {entry.name for entry in workspace.fitting()}, found.get("chosen") or {}
        chosen = {name: value for name, value in held.items() if name in names} | chosen
        return (chosen, str(chosen), *values)

    inputs = [panel.chosen, *fields]
    edits = [field.change for field in fields]
    changes = [*edits, panel.chosen.change, panel.changed.change]
    gr.on(changes, keep, inputs, kept, trigger_mode="always_last", **UNQUEUED)
    page.load(restore, [kept, panel.chosen], [panel.chosen, panel.changed, *fields], **UNQUEUED)
