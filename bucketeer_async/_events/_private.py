"""PrivateEventFactory: encodes events without the private attributes of users."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Literal, SupportsFloat

from bucketeer_async._events._encoder import EventFactory
from bucketeer_async._models import User, check_user

_KEPT_USERS: Final = 1000  # copies of users


class PrivateEventFactory(EventFactory):
    """As `EventFactory`, without some attributes of users.

    A user keeps its JSON for all processors, with all attributes. So an event is encoded with a copy of the user that
    has the others only, and keeps JSON of its own. Each factory has its own copies.

    Args:
        private: The names of the attributes, or ``"all"``.
        options: See `EventFactory`.
    """

    def __init__(self, private: Collection[str] | Literal["all"], **options: Any) -> None:
        super().__init__(**options)
        self._private = None if private == "all" else frozenset(private)  # None for all
        # By the id of the object, which is no other's while the object is kept beside its copy.
        self._copies: dict[int, tuple[User, User]] = {}

    def _evaluation(self, user: User, fields: str) -> bytes:
        return super()._evaluation(self._public(user), fields)

    def goal(self, user: User, goal_id: str, value: SupportsFloat) -> bytes:
        """Encode a goal event, as `EventFactory.goal`."""
        return super().goal(self._public(user), goal_id, value)

    def _public(self, user: User) -> User:
        """Return a user without private attributes: a copy, unless there are none.

        Raises:
            TypeError: If the argument is not a `User`.
        """
        kept = self._copies.get(id(user))
        if kept is not None:
            return kept[1]
        whole = check_user(user)
        attributes, private = whole.attributes, self._private
        if not attributes or (private is not None and private.isdisjoint(attributes)):
            return whole
        public = {} if private is None else {name: attributes[name] for name in attributes if name not in private}
        copy = User(whole.id, public)
        if whole is user:  # anything else may change
            if len(self._copies) >= _KEPT_USERS:
                self._copies.clear()
            self._copies[id(user)] = (user, copy)
        return copy
