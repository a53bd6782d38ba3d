"""How the app is reached: the page and its API put together, served behind checks.

assembly.py puts the tabs and api.py's endpoints on one page; server.py serves it; middleware.py
lets only requests of the page through, of bounded size, with uploads.py (kinds of files) and
clients.py (addresses and passwords).
"""

from ..._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "server": ["run_app"],
    },
)
