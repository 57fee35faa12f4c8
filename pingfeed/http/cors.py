"""Which web pages of other origins may call: those that PINGFEED_CORS_ORIGINS lists, none by default."""

from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from pingfeed.settings import Settings

_ALLOWED: Final = ("Authorization", "Content-Encoding", "Content-Type", "X-API-Key", "X-Request-Id")
_SHOWN: Final = ("Retry-After", "X-Request-Id")
_REMEMBERED_S: Final = 600


def install(app: FastAPI, settings: Settings) -> None:
    """Answer browsers that ask; the last layer to be added, so that even a 500 is readable to a page that may call.

    No cookie is ever looked at, so `*` lets every page call but gives it nobody's rights: keys are sent by hand.
    """
    if not settings.cors_origins:
        return
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "POST"),
        allow_headers=_ALLOWED,
        expose_headers=_SHOWN,
        max_age=_REMEMBERED_S,
    )
