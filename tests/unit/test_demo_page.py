"""The demo page's routes: absent unless enabled, read-only, restricted by the page's policy."""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from feed_api.demo_page import people
from pingfeed.core.features import FeatureSet
from pingfeed.core.ranker import snapshot_key
from pingfeed.core.trending import Engagement
from simulator import personas
from simulator.people import TOPICS
from simulator.world import Spec, World, user_id
from tests.unit.feed_world import NOW_MS, TICK, TICK_MS, Ping, feed_world
from tests.unit.feed_world import World as FeedWorld

KEY = "an operator's key"
HASH = hashlib.sha256(KEY.encode()).hexdigest()
PINGS = [
    Ping("p0", creator=1, topics=(7, 9), country="DE", language="de"),
    Ping("p1", creator=2, country=None, language=None, impressions=5),
    Ping("p2", creator=2, topics=(404,), country="BR", language="pt"),
]
NAMES = {"topics": {"7": "music", "9": "news"}}
DATA = ("/demo/about", "/demo/people", "/demo/person?user_id=u", "/demo/pings", "/demo/system")
PEOPLE = people.People(
    [people.Person("ada", "DE", "de", 4.5, [people.Preference("music", 1.5)], [people.Preference("film", -2.0)])],
    {"music": ["Four chords"], "news": ["The week"]},
)


def write_people(folder: Path, content: people.People = PEOPLE) -> Path:
    home = folder / "var/pingfeed"
    home.mkdir(parents=True, exist_ok=True)
    (home / people.FILE).write_bytes(msgspec.json.encode(content))
    return home / people.FILE


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[FeedWorld]:
    write_people(tmp_path)
    artifacts = {snapshot_key(TICK, "facets.json"): json.dumps(NAMES).encode()}
    async with feed_world(tmp_path, PINGS, artifacts=artifacts, DEMO_PAGE="1") as found:
        yield found


async def get(world: FeedWorld, path: str) -> Any:
    answer = await world.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_without_the_setting_there_is_no_page(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS) as world:
        for path in ("/", *DATA):
            assert (await world.client.get(path)).status_code == 404


async def test_the_page_adds_nothing_to_the_documented_api(world: FeedWorld) -> None:
    assert set((await get(world, "/openapi.json"))["paths"]) == {"/get-feed", "/healthz", "/readyz"}


async def test_the_page_connects_only_to_the_two_services(world: FeedWorld) -> None:
    answer = await world.client.get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["connect-src"] == "'self' http://feed:8000"
    assert "unsafe" not in str(policy)
    page = answer.text
    assert not re.findall(r'(?:src|href)="(?!#|data:image/svg)[^"]*"', page)
    assert " style=" not in page, "the policy would drop it"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_policy_contains_the_digests_of_the_script_and_the_style(world: FeedWorld) -> None:
    answer = await world.client.get("/")
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (inside,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", answer.text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["feed.example", "[::1]"])
async def test_ingest_is_expected_on_its_default_port_of_the_same_host(world: FeedWorld, host: str) -> None:
    answer = await world.client.get("/", headers={"Host": f"{host}:8001"})
    assert f"connect-src 'self' http://{host}:8000;" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil;script-src *", "evil'", "a b", "evil.example/x", ""])
async def test_an_invalid_host_does_not_get_into_the_policy(world: FeedWorld, host: str) -> None:
    policy = (await world.client.get("/", headers={"Host": host})).headers["content-security-policy"]
    assert re.search(r"connect-src 'self' http://[a-z0-9.]+:8000;", policy)
    assert "evil" not in policy


async def test_ingest_may_be_elsewhere(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS, DEMO_PAGE="1", DEMO_INGEST_URL="https://in.example") as world:
        assert (await get(world, "/demo/about"))["ingest_url"] == "https://in.example"
        answer = await world.client.get("/")
        assert "connect-src 'self' https://in.example;" in answer.headers["content-security-policy"]


async def test_every_feature_is_described_in_the_vectors_order(world: FeedWorld) -> None:
    features = (await get(world, "/demo/about"))["features"]
    assert [feature["name"] for feature in features] == list(FeatureSet().names)
    assert all(feature["meaning"] and feature["group"] for feature in features)


async def test_a_card_shows_what_the_snapshot_knows_about_a_ping(world: FeedWorld) -> None:
    first, second, third = (await get(world, "/demo/pings?ids=p0,p1,gone,p2"))["pings"]
    assert first == {
        "ping_id": "p0",
        "creator_id": "c1",
        "title": "Four chords",
        "topics": ["music", "news"],
        "country": "DE",
        "language": "de",
        "created_ms": 0,
        "duration_s": None,
        "impressions": 1000,
    }
    assert (second["title"], second["topics"], second["country"], second["language"]) == (None, [], None, None)
    assert third["topics"] == [], "a number without a name is left out"
    assert third["created_ms"] == 2 * TICK_MS


@pytest.mark.parametrize("mine", [True, False])
async def test_topic_names_are_those_of_this_digest_and_without_any_a_card_has_no_topics(
    tmp_path: Path, mine: bool
) -> None:
    artifacts = {}
    if mine:
        names = {snapshot_key(f"{TICK}-{FeatureSet().digest}", "facets.json"): NAMES}
        names[snapshot_key(TICK, "facets.json")] = {"topics": {"7": "another world"}}
        artifacts = {key: json.dumps(value).encode() for key, value in names.items()}
    async with feed_world(tmp_path, PINGS, artifacts=artifacts, DEMO_PAGE="1") as world:
        (card,) = (await get(world, "/demo/pings?ids=p0"))["pings"]
        assert card["topics"] == (["music", "news"] if mine else [])


async def test_a_person_has_preferences_and_recent_signals(world: FeedWorld) -> None:
    await world.act("follow", "c1", "c2", user_id="ada")
    await world.act("unfollow", "c2", user_id="ada")
    await world.act("hide", "p1", user_id="ada")
    await world.act("seen", "p0", "p1", user_id="ada")
    await world.act("engaged", "p0", user_id="ada")
    found = await get(world, "/demo/person?user_id=ada")
    assert found.pop("person")["likes"] == [{"topic": "music", "weight": 1.5}]
    numbers = {"hidden": 1, "blocked": 0, "seen": 2, "session": 1}
    assert found == {"user_id": "ada", "follows": ["c1"], "unfollows": ["c2"], **numbers}
    assert (await get(world, "/demo/person?user_id=unknown"))["person"] is None


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/demo/person", "user_id"),
        ("/demo/person?user_id=a/b", "user_id"),
        ("/demo/system?country=germany", "country"),
        ("/demo/pings?ids=" + ",".join(["p0"] * 201), "ids"),
    ],
)
async def test_an_invalid_parameter_is_rejected_by_name(world: FeedWorld, path: str, field: str) -> None:
    answer = await world.client.get(path)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field


async def test_people_are_reloaded_after_a_history_is_written(world: FeedWorld, tmp_path: Path) -> None:
    assert [person["user_id"] for person in (await get(world, "/demo/people"))["people"]] == ["ada"]
    path = write_people(tmp_path, people.People([people.Person("bob", "US", "en", 1, [], [])], {}))
    assert [person["user_id"] for person in (await get(world, "/demo/people"))["people"]] == ["bob"]
    path.unlink()
    assert (await get(world, "/demo/people"))["people"] == []


async def test_a_damaged_people_file_leaves_a_page_without_people(world: FeedWorld, tmp_path: Path) -> None:
    (tmp_path / "var/pingfeed" / people.FILE).write_text("{")
    assert (await world.client.get("/demo/people")).status_code == 200


async def test_the_system_view_shows_the_live_artifacts_and_trending_pings(world: FeedWorld) -> None:
    await world.likes("p0", 3)
    await world.trending.add([Engagement("eve", "brand-new", "share", "BR", world.time.now_ms)])
    found = await get(world, "/demo/system")
    assert found["snapshot"] == {"tick": TICK, "tick_ms": NOW_MS, "pings": 3, "creators": 2}
    assert found["model"] is None
    assert found["countries"] == ["BR", "DE"]
    assert [(hot["ping_id"], hot["card"] and hot["card"]["title"]) for hot in found["trending"]] == [
        ("p0", "Four chords"),
        ("brand-new", None),
    ]
    there = await get(world, "/demo/system?country=BR")
    assert [hot["ping_id"] for hot in there["trending"]] == ["brand-new"]


async def test_failing_trending_differs_from_an_empty_list(world: FeedWorld) -> None:
    world.trending.down = "the disk is gone"
    assert (await get(world, "/demo/system"))["trending"] is None


async def test_without_a_snapshot_the_page_reports_none(tmp_path: Path) -> None:
    async with feed_world(tmp_path, DEMO_PAGE="1") as world:
        found = await get(world, "/demo/system")
        assert found["snapshot"] is None
        assert (await get(world, "/demo/pings?ids=p0"))["pings"] == []


async def test_with_api_keys_the_page_is_public_but_its_data_is_not(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS, DEMO_PAGE="1", AUTH="api_key", API_KEY_HASHES=HASH) as world:
        assert (await world.client.get("/")).status_code == 200
        for path in DATA:
            assert (await world.client.get(path)).status_code == 401
            known: httpx.Response = await world.client.get(path, headers={"X-API-Key": KEY})
            assert known.status_code == 200


def test_the_page_reads_the_people_that_the_simulator_writes(tmp_path: Path) -> None:
    world = World.build(Spec(seed=3, users=20, pings=40, days=1, until_ms=NOW_MS))
    (tmp_path / people.FILE).write_bytes(personas.encode(world))
    found = people.PeopleFile(tmp_path).read()
    assert [person.user_id for person in found.people] == [user_id(number) for number in range(20)]
    person, interest = found.people[4], world.users.interest[4]
    assert person.likes[0].topic == TOPICS[interest.argmax()]
    assert person.dislikes[0].topic == TOPICS[interest.argmin()]
    assert person.country == world.country(4)

    assert set(found.titles) == set(TOPICS)
    titles = {found.title(f"ping-{number:05d}", ["travel", "music"]) for number in range(300)}
    assert titles <= set(found.titles["travel"])
    assert len(titles) > 25
    assert found.title("ping-1", ["unheard of"]) is None
