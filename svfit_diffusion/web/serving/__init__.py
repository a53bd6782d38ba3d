"""The HTTP front for programs (`svfit serve`): pictures, batched, behind the app's gate.

wishes.py reads and checks a request, batching.py is the queue whose pictures are generated
together, metrics.py counts, routes.py answers, and server.py serves it all to those who may use it
(password.py).
"""

from ..._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {"server": ["run_server"]})
