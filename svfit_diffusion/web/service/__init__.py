"""How the app is reached: the page and its API put together, and served to those who may use it.

assembly.py puts the page and the endpoints together (endpoints.py registers them, api.py does their
work); server.py serves them to those who may use them (access.py). middleware.py
refuses requests that are not from the page, or too large, with uploads.py (kinds of files) and
clients.py (addresses and passwords).
"""

from ..._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "access": ["check_access", "ended_by_sigterm"],
        "clients": ["LoginAttempts", "RequestRefused", "client_address"],
        "middleware": ["RequestGuard"],
        "server": ["run_app", "run_public_app"],
    },
)
