-- The last thing each user said of following each creator in each tick, and whether they blocked them in it.
SELECT user_id, creator, tick, event_type AS relation
FROM (
    SELECT
        user_id,
        creator,
        tick,
        event_type,
        ROW_NUMBER() OVER (
            PARTITION BY user_id, creator, tick, CASE WHEN event_type = 'block' THEN 1 ELSE 0 END
            ORDER BY received_ms DESC, event_id DESC
        ) AS latest
    FROM acts
    WHERE event_type IN ('follow', 'unfollow', 'block') AND creator IS NOT NULL
) AS said
WHERE latest = 1
