"""Which web pages of other origins may call: those that PINGFEED_CORS_ORIGINS lists, none by default."""

from typing import Final

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from pingfeed.settings import Settings
from pingfeed.web.headers import hardened

_ALLOWED: Final = ("Authorization", "Content-Encoding", "Content-Type", "X-API-Key", "X-Request-Id")
_SHOWN: Final = ("Retry-After", "WWW-Authenticate", "X-Request-Id")
_REMEMBERED_S: Final = 600


def install(app: FastAPI, settings: Settings) -> None:
    """Answer browsers that ask; the last layer to be added, so that even a 500 is readable to a page that may call.

    No cookie is ever looked at, so `*` lets every page call but gives it nobody's rights: keys are sent by hand.
    """
    if not settings.cors_origins:
        return
    app.add_middleware(
        _Cors,
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "POST"),
        allow_headers=_ALLOWED,
        expose_headers=_SHOWN,
        max_age=_REMEMBERED_S,
    )


class _Cors(CORSMiddleware):
    """Answers a browser's first question itself, so it puts the headers on that answer."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        answer.raw_headers = hardened(answer.raw_headers)
        return answer
