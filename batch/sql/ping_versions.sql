-- What is known of each ping from when until when: a later version replaces the earlier one whole.
-- One that names another creator than the ping's first is ignored: a user's token may publish under any ping's id, so
-- the first is the first that a key sent, where there is one (by_user is null), as in pings.sql.
-- versions(ping, creator, known_tick, received_ms, seq, event_id, duration_ms, country, language, by_user): one row a
-- `ping_created`.
WITH firsts AS (
    SELECT
        ping,
        creator
    FROM (
        SELECT
            ping,
            creator,
            ROW_NUMBER() OVER (
                PARTITION BY ping
                ORDER BY COALESCE(by_user, 0), known_tick, received_ms, COALESCE(seq, 0), event_id
            ) AS place
        FROM versions
    ) AS ranked
    WHERE place = 1
),

latest AS (
    SELECT *
    FROM (
        SELECT
            versions.*,
            ROW_NUMBER() OVER (
                PARTITION BY versions.ping, versions.known_tick
                ORDER BY versions.received_ms DESC, COALESCE(versions.seq, 0) DESC, versions.event_id DESC
            ) AS place
        FROM versions
        INNER JOIN firsts ON versions.ping = firsts.ping AND versions.creator = firsts.creator
    ) AS ranked
    WHERE place = 1
)

SELECT
    ping,
    known_tick AS from_tick,
    LEAD(known_tick, 1, 4294967295) OVER (PARTITION BY ping ORDER BY known_tick) AS to_tick,
    event_id,
    duration_ms,
    country,
    language
FROM latest
