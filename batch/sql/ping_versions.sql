-- What is known of each ping from when until when: a later version replaces the earlier one whole.
-- versions(ping, known_tick, received_ms, event_id, duration_ms, country, language): one row a `ping_created`.
WITH latest AS (
    SELECT *
    FROM (
        SELECT
            *,
            ROW_NUMBER() OVER (PARTITION BY ping, known_tick ORDER BY received_ms DESC, event_id DESC) AS place
        FROM versions
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
