-- What each user decided about each target, by the act with the greatest order key: the state before plus the buckets
-- since. An act that takes back stays as a row.
-- state and user_relation_buckets: as user_relation_buckets.sql gives them.
SELECT
    user_id, kind, target, active, country, language, interests, tick, at_ms, received_ms, seq, event_id
FROM (
    SELECT
        both_parts.*,
        ROW_NUMBER() OVER (
            PARTITION BY user_id, kind, target ORDER BY at_ms DESC, received_ms DESC, seq DESC, event_id DESC, tick
        ) AS place
    FROM (
        SELECT * FROM state
        UNION ALL
        SELECT * FROM user_relation_buckets
    ) AS both_parts
) AS ranked
WHERE place = 1
