-- The last thing each user said of each creator in each tick: follow, unfollow or block.
SELECT user_id, creator, tick, event_type AS relation
FROM (
    SELECT
        user_id,
        creator,
        tick,
        event_type,
        ROW_NUMBER() OVER (PARTITION BY user_id, creator, tick ORDER BY received_ms DESC, event_id DESC) AS latest
    FROM acts
    WHERE event_type IN ('follow', 'unfollow', 'block') AND creator IS NOT NULL
) AS said
WHERE latest = 1
