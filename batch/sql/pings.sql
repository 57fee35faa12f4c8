-- Each ping's creator and the tick that first learned of it; both stay as its first version gave them.
-- A version that a key sent counts before those of users' tokens (by_user = 1).
-- versions(ping, creator, known_tick, received_ms, seq, event_id, by_user): one row a `ping_created`.
SELECT ping, creator, known_tick AS created_tick
FROM (
    SELECT
        ping,
        creator,
        known_tick,
        ROW_NUMBER() OVER (
            PARTITION BY ping ORDER BY COALESCE(by_user, 0), known_tick, received_ms, COALESCE(seq, 0), event_id
        ) AS place
    FROM versions
) AS ranked
WHERE place = 1
