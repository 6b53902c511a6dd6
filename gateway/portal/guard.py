"""Did our own page send this form, and whose session is it? No script, no hidden token: the browser says it itself."""

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from shared.problems import Forbidden, Unauthenticated


class CrossSite(Forbidden):
    """The form did not come from one of our own pages."""


class SignedOut(Unauthenticated):
    """There is no session: prove first that the request is yours."""


def require_same_origin(request: Request) -> None:
    """Raise `CrossSite` unless the form was sent by a page of this very origin.

    Browsers state it in Sec-Fetch-Site; those that do not (plain http, old ones) state Origin. A client that says
    nothing is refused: it can use the JSON API. The scheme is left out, for TLS may end at a proxy in front of us.
    """
    site = request.headers.get("sec-fetch-site")
    if site == "same-origin":
        return
    origin = urlsplit(request.headers.get("origin", ""))
    if site is None and origin.netloc and origin.netloc == request.headers.get("host"):
        return
    raise CrossSite


class SessionCookie:
    """The cookie that holds the subject's token after sign-in, and nothing before it."""

    def __init__(self, *, secure: bool) -> None:
        """`secure` is False on loopback http alone: the prefix `__Host-` demands https (RFC 6265bis §4.1.3)."""
        self._secure = secure
        self.name = "__Host-habeas" if secure else "habeas"

    def read(self, request: Request) -> str | None:
        return request.cookies.get(self.name)

    def demand(self, request: Request) -> str:
        """Return the token or raise `SignedOut`."""
        token = self.read(request)
        if not token:
            raise SignedOut
        return token

    def write(self, response: Response, token: str, expires_in: int) -> None:
        """Keep `token` for `expires_in` seconds."""
        response.set_cookie(
            self.name, token, max_age=expires_in, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    def clear(self, response: Response) -> None:
        response.delete_cookie(self.name, path="/", secure=self._secure, httponly=True, samesite="lax")
