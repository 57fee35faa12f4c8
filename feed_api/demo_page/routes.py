"""The page's routes, all read-only: the page itself, people, one person, pings, and the state of the system.

The page's Content-Security-Policy admits its one script and style by digest, so nothing else can run on the page, and
it limits connections to this service and ingest.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from feed_api.artifact_loader import ArtifactLoader
from feed_api.demo_page.cards import Cards
from feed_api.demo_page.people import PeopleFile, Person
from feed_api.demo_page.system import overview
from feed_api.wiring import Services
from pingfeed.core.context import Country
from pingfeed.core.errors import Forbidden, InvalidInput
from pingfeed.core.events import Id
from pingfeed.core.features import CONTEXT, REALTIME, RETRIEVAL, FeatureSet
from pingfeed.settings import INGEST_PORT, Settings
from pingfeed.web.auth import authenticate
from pingfeed.web.errors import check_parameters, json_response

MAX_CARDS: Final = 200
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:]+")


def create_router(services: Services, settings: Settings, loader: ArtifactLoader) -> APIRouter:
    """The routes; excluded from the API's documentation, because only the page calls them."""
    router = APIRouter(include_in_schema=False)
    known_people = PeopleFile(settings.home)
    cards = Cards(loader, services.artifacts, known_people, settings.features, settings.tick_ms)

    @router.get("/")
    async def page(request: Request) -> Response:
        return _document(_ingest_url(request, settings))

    @router.get("/demo/about")
    async def about(request: Request) -> Response:
        await authenticate(request)
        check_parameters(request.query_params)
        features = _descriptions(settings.features)
        return json_response({"ingest_url": _ingest_url(request, settings), "features": features})

    @router.get("/demo/people")
    async def people(request: Request) -> Response:
        await authenticate(request)
        check_parameters(request.query_params)
        return json_response({"people": known_people.read().people})

    @router.get("/demo/person")
    async def person(request: Request) -> Response:
        caller = await authenticate(request)
        check_parameters(request.query_params, "user_id")
        user_id = _parameter(request, "user_id", Id)
        if caller.subject not in (None, user_id):
            raise Forbidden("you may ask for yourself only", field="user_id")
        known = next((p for p in known_people.read().people if p.user_id == user_id), None)
        return json_response(await _person(services, user_id, known))

    @router.get("/demo/pings")
    async def pings(request: Request) -> Response:
        await authenticate(request)
        check_parameters(request.query_params, "ids")
        ping_ids = [ping_id for ping_id in request.query_params.get("ids", "").split(",") if ping_id]
        if len(ping_ids) > MAX_CARDS:
            raise InvalidInput(f"ids may name at most {MAX_CARDS} pings", field="ids", code="out_of_range")
        return json_response({"pings": await cards.of(ping_ids)})

    @router.get("/demo/system")
    async def system(request: Request) -> Response:
        await authenticate(request)
        check_parameters(request.query_params, "country")
        country = _parameter(request, "country", Country) if request.query_params.get("country") else None
        return json_response(await overview(services, settings.tick_ms, loader.live, cards, country))

    return router


async def _person(services: Services, user_id: str, known: Person | None) -> dict[str, Any]:
    """A user: the persona if the user is simulated, and the current signals; `session` counts its engagements."""
    now_ms = services.clock()
    state = (await services.signals.read(user_id, now_ms)).state
    return {
        "user_id": user_id,
        "person": known,
        "follows": sorted(state.following()),
        "unfollows": sorted(state.follows.keys() - state.following()),
        "hidden": len(state.hides),
        "blocked": len(state.blocks),
        "seen": len(state.session.seen),
        "session": len(state.session.interactions(now_ms)),
    }


def _parameter(request: Request, name: str, kind: object) -> str:
    try:
        return str(msgspec.convert(request.query_params.get(name, ""), kind))
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{name} is not valid: {error}", field=name, code="invalid_value") from error


def _descriptions(features: FeatureSet) -> list[dict[str, str]]:
    """The name, group and meaning of every feature, in the vector's order."""
    groups = {
        "The ping and its creator": features.ping,
        "The user": features.user,
        "The user and this ping": features.affinity,
        "Context": CONTEXT,
        "Retrieval": RETRIEVAL,
        "Right now": REALTIME,
    }
    return [
        {"name": feature.name, "group": group, "meaning": feature.meaning}
        for group, members in groups.items()
        for feature in members
    ]


def _ingest_url(request: Request, settings: Settings) -> str:
    """The address of ingest for the page's visitor: as set, or the default port of the host in the request."""
    if settings.demo_ingest_url:
        return settings.demo_ingest_url
    host = request.url.hostname or ""
    if not _HOST.fullmatch(host):  # it goes into a header, and a client may send any Host
        host = "127.0.0.1"
    return f"{request.url.scheme}://{f'[{host}]' if ':' in host else host}:{INGEST_PORT}"


def _document(ingest_url: str) -> Response:
    html, script, style = _html()
    policy = {
        "default-src": "'self'",
        "script-src": script,
        "style-src": style,
        "img-src": "'self' data:",
        "connect-src": f"'self' {ingest_url}",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        # The page creates its elements one by one: markup from a string could inject what events carry.
        "require-trusted-types-for": "'script'",
    }
    header = "; ".join(f"{name} {value}" for name, value in policy.items())
    headers = {"Content-Security-Policy": header, "Cache-Control": "no-cache"}
    return Response(html, media_type="text/html; charset=utf-8", headers=headers)


@cache
def _html() -> tuple[bytes, str, str]:
    """The file, and the digests of its script and its style as a policy names them."""
    html = (files(__package__) / "index.html").read_bytes()
    return html, _digest(html, b'<script type="module">', b"</script>"), _digest(html, b"<style>", b"</style>")


def _digest(html: bytes, opening: bytes, closing: bytes) -> str:
    start = html.index(opening) + len(opening)
    inside = html[start : html.index(closing, start)]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"
