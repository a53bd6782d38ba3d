"""web.service.clients: failed logins, addresses and host names."""

import pytest

from svfit_diffusion.web.service.access import check_access
from svfit_diffusion.web.service.clients import (
    FREE_ATTEMPTS,
    MAX_WAIT,
    LoginAttempts,
    RequestRefused,
    client_address,
    hostname,
)


def test_each_wait_is_twice_the_last_and_clients_count_for_themselves():
    now = [0.0]
    attempts, waits = LoginAttempts(lambda: now[0]), []
    for _ in range(FREE_ATTEMPTS + 12):
        attempts.count("a")
        try:
            attempts.count("a")
        except RequestRefused as reason:
            waits.append(reason.wait)
            now[0] += reason.wait
        attempts.count(f"other {len(waits)}")
    assert waits[:5] == [1, 2, 4, 8, 16] and waits[-1] == MAX_WAIT
    attempts.reset("a")
    for _ in range(FREE_ATTEMPTS):
        attempts.count("a")


@pytest.mark.parametrize(
    ("client", "name"),
    [
        (("10.0.0.1", 5), "10.0.0.1"),
        (("2001:db8::1", 5), "2001:db8::/64"),
        (("2001:db8::2", 6), "2001:db8::/64"),
        (("::ffff:10.0.0.1", 5), "10.0.0.1"),
        (("unix", 0), "unknown"),
        (None, "unknown"),
    ],
)
def test_tries_are_counted_by_address_or_network(client, name):
    assert client_address(client) == name


def test_host_headers_are_read_strictly():
    assert hostname("[::1]:80") == "::1" and hostname("A.b:80") == "a.b"
    for odd in ("", "a:b", "a:80:80", "a@b", "a b", "[a", "a/b"):
        assert hostname(odd) == ""


def test_others_need_a_password():
    assert check_access("127.0.0.1", None) is None
    assert check_access("0.0.0.0", "me:secret") == ("me", "secret")
    with pytest.raises(ValueError, match="reachable for others"):
        check_access("192.168.0.9", None)
