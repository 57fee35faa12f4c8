-- Every ping that a user ever hid or reported: the state before plus the buckets since.
-- state(user_id, ping, tick); user_ping_buckets.
SELECT user_id, ping, MIN(tick) AS tick
FROM (
    SELECT user_id, ping, tick FROM state
    UNION ALL
    SELECT user_id, ping, tick FROM user_ping_buckets WHERE hides > 0
) AS both_parts
GROUP BY user_id, ping
