-- Which of the newly read rows are new: by (user_id, event_id) over 7 days, first known wins.
-- raw(seq, user_id, event_id, known_tick, received_ms): what a run has read, in order of `seq`.
-- recent(user_id, event_id, known_tick, received_ms): keys already kept, of at least the last 7 days.
WITH keys AS (
    SELECT COALESCE(user_id, '') AS user_key, event_id, known_tick, received_ms, seq FROM raw
    UNION ALL
    SELECT COALESCE(user_id, '') AS user_key, event_id, known_tick, received_ms, CAST(-1 AS BIGINT) AS seq FROM recent
),
ordered AS (
    SELECT
        seq,
        known_tick,
        LAG(known_tick) OVER (
            PARTITION BY user_key, event_id ORDER BY known_tick, received_ms, seq
        ) AS known_before
    FROM keys
)
SELECT seq
FROM ordered
CROSS JOIN params
WHERE seq >= 0 AND (known_before IS NULL OR known_before <= known_tick - week_ticks)
ORDER BY seq
