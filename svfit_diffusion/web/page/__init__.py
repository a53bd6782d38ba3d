"""What is seen: tabs, their events, HTML, CSS and JavaScript.

layout.py puts the tabs together; <tab>_tab.py lays one out and <tab>_actions.py has what its events
do, with events.py's options. concepts_panel.py, history_panel.py and run_panel.py are parts of
tabs; form_memory.py keeps the form in the browser. public_page.py is all of a public app, with
public_actions.py. render.py makes HTML of templates/, theme.py and static/ its look.
"""

from ..._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "assets": ["CSS", "SHORTCUTS"],
        "events": ["ONE_AT_A_TIME", "user_errors"],
        "layout": ["build_page"],
        "public_page": ["build_public_page"],
        "theme": ["THEME"],
    },
)
