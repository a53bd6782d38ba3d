"""Methods that one object gets and others of its class do not.

A tokenizer that hears learned words must do so for everybody who holds it. So its class becomes a
subclass of its own class, under the same name; copies and pickles of it keep that, and the last
removal takes it back.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def _subclass(mixin: type, base: type) -> type:
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (mixin, base), names)


def _rebuild(mixin: type, base: type) -> Any:
    kind = _subclass(mixin, base)
    return kind.__new__(kind)


class InstanceMixin:
    """A mixin for single objects; pickling and copying rebuild the subclass."""

    def __reduce_ex__(self, protocol: int) -> tuple:
        """As the object's own, but by the mixin and the class that it is mixed into."""
        _, _, *state = super().__reduce_ex__(max(2, int(protocol)))
        return _rebuild, type(self).__bases__, *state


def mix_in(thing: Any, mixin: type[InstanceMixin]) -> None:
    """Give an object the methods of a mixin, before its own."""
    if not isinstance(thing, mixin):
        thing.__class__ = _subclass(mixin, type(thing))


def take_out(thing: Any, mixin: type[InstanceMixin]) -> None:
    """Give an object that was given a mixin its own class back."""
    if isinstance(thing, mixin):
        thing.__class__ = type(thing).__bases__[1]
