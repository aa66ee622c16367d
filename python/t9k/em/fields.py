"""Fields of a Run's or an Artifact's metadata, which may come from a file that anybody has edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t9k.em.errors import InvalidInputError

_WORDS: dict[type, str] = {str: "text", int: "a whole number", dict: "a mapping"}


class Fields:
    """The fields of one mapping, each checked as it is read: they become text of pages and files later.

    A field that is missing or None reads as an empty text, list or mapping, or as 0.
    """

    def __init__(self, what: str, values: Any) -> None:
        """Checks nothing but the mapping.

        Args:
            what: Whose fields these are, for the errors: ``a run``.
            values: The mapping.

        Raises:
            InvalidInputError: It is not one.
        """
        self._what = what
        self._values: Mapping[str, Any] = self._checked("metadata", values, dict)

    def text(self, field: str, default: str = "") -> str:
        """Returns a text, or the default instead of an empty one."""
        return str(self._checked(field, self._values.get(field) or default, str))

    def texts(self, field: str) -> list[str]:
        """Returns a list of texts; one text is not a list of its letters."""
        return self._list(field, str)

    def count(self, field: str) -> int:
        """Returns a whole number, 0 if there is none."""
        return int(self._checked(field, self._values.get(field) or 0, int))

    def mapping(self, field: str) -> dict[str, Any]:
        """Returns a copy of a mapping."""
        return dict(self._checked(field, self._values.get(field) or {}, dict))

    def mappings(self, field: str) -> list[dict[str, Any]]:
        """Returns a list of mappings."""
        return self._list(field, dict)

    def _list(self, field: str, expected: type) -> list[Any]:
        values = self._values.get(field)
        if values is None:
            return []
        if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
            raise InvalidInputError(f"{field} of {self._what} must be a list, not {type(values).__name__}")
        return [self._checked(field, value, expected) for value in values]

    def _checked(self, field: str, value: Any, expected: type) -> Any:
        if not isinstance(value, expected):
            raise InvalidInputError(f"{field} of {self._what} must be {_WORDS[expected]}, not {type(value).__name__}")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidInputError(f"{field} {value!a} of {self._what} is not valid Unicode") from None
        return value
