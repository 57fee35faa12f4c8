"""The page's routes, all of them read-only: the page, people, a person, pings, and how the system is."""

from collections.abc import Sequence
from typing import Final

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from feed_api.artifact_loader import ArtifactLoader
from feed_api.demo_page.cards import Cards
from feed_api.demo_page.document import document, ingest_url
from feed_api.demo_page.people import GalleryFile, Person
from feed_api.demo_page.system import overview
from feed_api.wiring import Services
from pingfeed.core.errors import Forbidden, InvalidInput
from pingfeed.core.events import Country, Id
from pingfeed.core.features import CONTEXT, REALTIME, RETRIEVAL, Feature, FeatureSet
from pingfeed.settings import Settings
from pingfeed.web.auth import authenticate
from pingfeed.web.errors import check_parameters, json_response

MAX_CARDS: Final = 200


class PersonNow(msgspec.Struct, frozen=True):
    """A user: who they are in the simulated world, null elsewhere, and what their signals hold."""

    user_id: str
    person: Person | None
    follows: list[str]
    unfollows: list[str]
    hidden: int
    blocked: int
    seen: int
    session: int
    """Engagements in this session."""


def create_router(services: Services, settings: Settings, loader: ArtifactLoader) -> APIRouter:
    """The routes; out of the API's documents, because only the page calls them."""
    router = APIRouter(include_in_schema=False)
    gallery = GalleryFile(settings.home)
    features = settings.features
    cards = Cards(loader, services.artifacts, gallery, features, settings.tick_ms)

    @router.get("/")
    async def page(request: Request) -> Response:
        return document(request, settings)

    @router.get("/demo/about")
    async def about(request: Request) -> Response:
        await authenticate(request)
        check_parameters(request.query_params)
        return json_response({"ingest_url": ingest_url(request, settings), "features": _described(features)})

    @router.get("/demo/people")
    async def people(request: Request) -> Response:
        await authenticate(request)
        check_parameters(request.query_params)
        return json_response({"people": gallery.read().people})

    @router.get("/demo/person")
    async def person(request: Request) -> Response:
        caller = await authenticate(request)
        check_parameters(request.query_params, "user_id")
        user_id = _checked(request, "user_id", Id)
        if caller.subject not in (None, user_id):
            raise Forbidden("you may ask for yourself only", field="user_id")
        known = next((p for p in gallery.read().people if p.user_id == user_id), None)
        return json_response(await _now(services, user_id, known))

    @router.get("/demo/pings")
    async def pings(request: Request) -> Response:
        await authenticate(request)
        check_parameters(request.query_params, "ids")
        return json_response({"pings": await cards.of(_ids(request.query_params.get("ids", "")))})

    @router.get("/demo/system")
    async def system(request: Request) -> Response:
        await authenticate(request)
        check_parameters(request.query_params, "country")
        country = _checked(request, "country", Country) if request.query_params.get("country") else None
        return json_response(await overview(services, settings, loader.live, cards, country))

    return router


async def _now(services: Services, user_id: str, known: Person | None) -> PersonNow:
    now_ms = services.clock()
    state = (await services.signals.read(user_id, now_ms)).state
    return PersonNow(
        user_id=user_id,
        person=known,
        follows=sorted(state.following()),
        unfollows=sorted(state.follows.keys() - state.following()),
        hidden=len(state.hides),
        blocked=len(state.blocks),
        seen=len(state.seen),
        session=len(state.session(now_ms)),
    )


def _checked(request: Request, name: str, kind: object) -> str:
    try:
        return str(msgspec.convert(request.query_params.get(name, ""), kind))
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{name} is not valid: {error}", field=name, code="invalid_value") from error


def _ids(text: str) -> list[str]:
    found = [ping_id for ping_id in text.split(",") if ping_id]
    if len(found) > MAX_CARDS:
        raise InvalidInput(f"ids may name at most {MAX_CARDS} pings", field="ids", code="out_of_range")
    return found


def _described(features: FeatureSet) -> list[dict[str, str]]:
    """Every feature's name, group and meaning, in the vector's order."""
    groups: tuple[tuple[str, Sequence[Feature]], ...] = (
        ("The ping and its creator", features.ping),
        ("The user", features.user),
        ("The user and this ping", features.affinity),
        ("Context", CONTEXT),
        ("Retrieval", RETRIEVAL),
        ("Right now", REALTIME),
    )
    return [
        {"name": feature.name, "group": group, "meaning": feature.meaning}
        for group, members in groups
        for feature in members
    ]
