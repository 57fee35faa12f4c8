"""docker-compose.yml, up: its loop over real HTTP and the parts of production, and what a restart keeps."""

import re

from pingfeed.adapters._dynamodb.items import packet_item, write_units
from pingfeed.adapters.registry import open_lake
from pingfeed.core.clock import to_iso
from simulator.world import user_id
from tests.containers.engine import Composition
from tests.containers.town import TICK_MS, Town
from tests.journeys.conftest import wait_for

USER, WATCHER = user_id(2), user_id(7)
OURS = ("ingest", "feed", "batch")
PARTITION = re.compile(r"events/year=\d{4}/month=\d{2}/day=\d{2}/[^/]+")


def test_every_container_is_locked_down_and_reached_from_this_machine_only(composition: Composition) -> None:
    for service in (*OURS, "cache", "aws"):
        found = composition.inspect(service)
        assert found["HostConfig"]["ReadonlyRootfs"], service
        assert found["HostConfig"]["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in found["HostConfig"]["SecurityOpt"], service
        assert found["Config"]["User"] == "10001:10001", service
        bound = [port for ports in found["NetworkSettings"]["Ports"].values() for port in ports or []]
        assert {port["HostIp"] for port in bound} <= {"127.0.0.1"}, service


def test_provisioning_again_makes_nothing(composition: Composition) -> None:
    said = composition.pingfeed("provision").splitlines()
    assert len(said) >= 4
    assert all(line.endswith(": exists already") for line in said)


def test_the_page_is_served_with_its_people(composition: Composition) -> None:
    assert "<html" in composition.web.get(f"{composition.feed}/").text
    assert len(composition.web.get(f"{composition.feed}/demo/people").json()["people"]) == 80
    about = composition.web.get(f"{composition.feed}/demo/about").json()
    assert about["ingest_url"] == composition.ingest


def test_follow_hide_and_likes_show_in_the_next_feed_and_are_learned_by_the_next_tick(town: Town) -> None:
    assert town.feed(USER)["degraded"] == []
    before, snapshot = town.shown(USER), town.snapshot()
    creator, fresh = town.creator_to_follow(USER, before)
    hidden = before[0]
    town.send(
        {"event_type": "follow", "user_id": USER, "creator_id": creator},
        {"event_type": "hide", "user_id": USER, "ping_id": hidden},
    )
    after = town.shown(USER)
    assert hidden not in after
    assert fresh in after

    missed = town.shown(WATCHER)[14]  # On the second page, and in a language that they read.
    country = town.composition.web.get(f"{town.composition.feed}/demo/person?user_id={WATCHER}").json()["person"]
    fans = [
        {"event_type": kind, "user_id": f"fan-{n}", "ping_id": missed, "country": country["country"]}
        for n in range(60)
        for kind in ("like", "share")
    ]
    acknowledged = town.send(*fans)
    wait_for(lambda: missed in town.shown(WATCHER, 10), "the liked ping to reach another user's feed")

    wait_for(lambda: town.landed() >= set(acknowledged), "every event to land in the bucket", 120)
    town.tick()
    town.now_ms = (town.now_tick + 30) * TICK_MS
    outcome = town.command("train", "--at", to_iso(town.now_ms))
    assert outcome["model"]["cutoff_tick"] == town.now_tick + 30
    done = town.tick()
    assert done["packets"] >= 80
    assert write_units(packet_item(USER, bytes(done["packet_bytes_p95"]), 10**13)) == 1, (
        "write units of 95 % of the packets"
    )
    sources = town.packet_sources(USER)
    assert hidden not in sources
    followed = [ping for ping, found in sources.items() if "followed" in found]
    assert creator in {snapshot.creator_id(snapshot.row_of_ping(ping)) for ping in followed}


def test_events_lie_as_parquet_by_their_day_of_arrival(town: Town) -> None:
    lake = open_lake(town.settings)
    paths = [path for path in lake.list("events") if "/history-" not in path]
    assert paths
    assert all(PARTITION.fullmatch(path) for path in paths)
    assert all(lake.read(path).startswith(b"PAR1") for path in paths[:5])


def test_stop_and_start_keep_events_packets_model_and_trending(town: Town) -> None:
    hot = town.shown(WATCHER, 10)[0]
    acknowledged = town.send(
        *({"event_type": "like", "user_id": f"late-{n}", "ping_id": hot} for n in range(30)),
        {"event_type": "hide", "user_id": USER, "ping_id": town.shown(USER)[3]},
    )
    page = f"{town.composition.feed}/demo/system"
    wait_for(lambda: town.composition.web.get(page).json()["trending"], "something to trend")
    before = town.feed(USER), town.composition.web.get(page).json()["trending"]
    wait_for(lambda: town.landed() >= set(acknowledged), "every event to land", 120)
    landed = town.landed()

    town.composition.run("stop")
    town.composition.run("start")
    town.composition.await_ready()

    after = town.feed(USER), town.composition.web.get(page).json()["trending"]
    assert after[0]["model_id"] == before[0]["model_id"] is not None
    assert after[0]["tick_ms"] >= before[0]["tick_ms"]
    assert after[0]["degraded"] == []
    assert town.packet(WATCHER)
    assert [ping["ping_id"] for ping in after[1]][:3] == [ping["ping_id"] for ping in before[1]][:3]
    assert town.landed() >= landed
