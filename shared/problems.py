"""How does a service say no? RFC 9457 problem documents; never with personal data, never with the offending value.

Problem                       → application/problem+json
├─ Malformed 400   ├─ Unauthenticated 401   ├─ Forbidden 403    ├─ NotFound 404     ├─ Conflict 409
├─ Gone 410        ├─ TooLarge 413          ├─ WrongType 415    ├─ Invalid 422      ├─ TooMany 429
└─ Unavailable 503

A subclass's docstring is its `detail`; `code` is stable and machine-readable and makes the `type`.
"""

from typing import Any, ClassVar

TYPE_PREFIX = "urn:habeas:problem:"


class Problem(Exception):
    """The request could not be carried out."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    code: ClassVar[str] = "internal"

    def __init__(
        self,
        detail: str | None = None,
        *,
        code: str | None = None,
        errors: tuple[dict[str, str], ...] = (),
        retry_after: int | None = None,
        **extra: str | int | bool,
    ) -> None:
        """`detail` names the rule, never a value; `errors` are `{"pointer", "detail"}`; `extra` are ids or counts."""
        self.detail = detail or " ".join((self.__doc__ or "").split())
        self.problem_code = code or self.code
        self.errors = errors
        self.retry_after = retry_after
        self.extra = extra
        super().__init__(self.problem_code)

    def document(self) -> dict[str, Any]:
        """The JSON body of RFC 9457 §3."""
        body: dict[str, Any] = {
            "type": TYPE_PREFIX + self.problem_code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }
        if self.errors:
            body["errors"] = list(self.errors)
        return body


class RuleBroken(ValueError):
    """What a pydantic validator of ours raises: the text names a rule, never a value, so a caller may read it.

    The text of any other `ValueError` stays inside, because libraries quote what they were given.
    """


class Malformed(Problem):
    """The request is not well formed."""

    status, title, code = 400, "Malformed request", "malformed"


class Unauthenticated(Problem):
    """Sign in first: no valid credentials came with the request."""

    status, title, code = 401, "Not signed in", "unauthenticated"


class Forbidden(Problem):
    """This caller may not do this."""

    status, title, code = 403, "Not allowed", "forbidden"


class NotFound(Problem):
    """There is no such thing here."""

    status, title, code = 404, "Not found", "not-found"


class Conflict(Problem):
    """The state of the thing does not allow this now."""

    status, title, code = 409, "Conflict", "conflict"


class Gone(Problem):
    """It was here and is no longer available."""

    status, title, code = 410, "Gone", "gone"


class PreconditionFailed(Problem):
    """Somebody else changed it meanwhile: read it again."""

    status, title, code = 412, "Changed meanwhile", "precondition-failed"


class TooLarge(Problem):
    """The request is larger than this door accepts."""

    status, title, code = 413, "Too large", "too-large"


class WrongType(Problem):
    """This door takes another content type."""

    status, title, code = 415, "Wrong content type", "wrong-type"


class Invalid(Problem):
    """The request is well formed but breaks a rule."""

    status, title, code = 422, "Invalid request", "invalid"


class TooMany(Problem):
    """Too many tries: wait before the next."""

    status, title, code = 429, "Too many requests", "too-many"


class Unavailable(Problem):
    """Not available right now: try again later."""

    status, title, code = 503, "Unavailable", "unavailable"
