"""Who calls the app: by which name, from where, and how often with a wrong password."""

from __future__ import annotations

import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import Callable

FREE_TRIES, LONGEST = 5, 900.0  # wrong passwords without a wait; seconds of the longest wait
MAX_CLIENTS = 10_000  # remembered for their tries


class Closed(Exception):
    """A request that does not come through: its status and one sentence."""

    def __init__(self, status: int, sentence: str, wait: float = 0) -> None:
        super().__init__(sentence)
        self.status, self.wait = status, wait


class LoginAttempts:
    """Wrong passwords of each client: after a few, each waits twice as long as the one before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def begin(self, client: str) -> None:
        """Count a try, before it is known how it ends; Closed where it comes too soon."""
        count, until = self._held.pop(client, (0, 0.0))
        now = self._clock()
        if until > now:
            self._held[client] = count, until
            raise Closed(429, "Too many wrong passwords; wait before the next try.", until - now)
        wait = min(2.0 ** (count + 1 - FREE_TRIES), LONGEST) if count + 1 >= FREE_TRIES else 0.0
        self._held[client] = count + 1, now + wait
        while len(self._held) > MAX_CLIENTS:
            self._held.popitem(last=False)

    def forget(self, client: str) -> None:
        """The password was right."""
        self._held.pop(client, None)


def hostname(host: str) -> str:
    """The name in a Host header, without its port; "" where it is none."""
    found = re.fullmatch(r"(\[[\da-fA-F:.]+\]|[^\s:\[\]/@]+)(:\d{1,5})?", host)
    return found[1].strip("[]").lower() if found else ""


def is_loopback(name: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def client_address(client: tuple[str, int] | None) -> str:
    """Whose tries are counted together: an address, of IPv6 a network."""
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return "unknown"
    if address.version == 6 and not address.ipv4_mapped:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)
