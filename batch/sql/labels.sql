-- Graded rows of the requests whose label window is over: one row for each ping that the user saw or acted on.
-- events: clean rows that carry a request_id or take back, of the requests' days and of the label window after them.
-- mentions(user_id, request_id, known_tick, received_ms): the same, of the week before too.
-- served(user_id, request_id, ping_id, position, ...): what was logged, one row an item; may be empty.
-- Grades: report 0, hide 1, impression 2, view 2 to 4 by watch ratio, like 5, comment 6, share 7, follow 8. A report or
-- a hide outweighs all else. An act that was taken back within the window (a later unlike or unhide, by the order key
-- at_ms, received_ms, seq, event_id) counts as an impression.
WITH first_known AS (
    SELECT user_id, request_id, MIN(known_tick) AS first_tick, MIN(received_ms) AS first_ms
    FROM mentions
    WHERE request_id IS NOT NULL AND user_id IS NOT NULL
    GROUP BY user_id, request_id
),
keyed AS (
    SELECT
        user_id,
        request_id,
        ping_id,
        known_tick,
        CASE
            WHEN event_type IN ('like', 'unlike') THEN 'like'
            WHEN event_type IN ('hide', 'report', 'unhide') THEN 'hide'
        END AS act,
        CASE WHEN event_type IN ('unlike', 'unhide') THEN 1 ELSE 0 END AS takes_back,
        LEAST(timestamp_ms, received_ms) AS at_ms,
        received_ms,
        COALESCE(seq, 0) AS seq,
        event_id
    FROM events
),
taken_back AS (
    SELECT e.user_id, e.event_id
    FROM keyed e
    JOIN first_known f ON f.user_id = e.user_id AND f.request_id = e.request_id
    JOIN keyed u ON u.user_id = e.user_id AND u.ping_id = e.ping_id AND u.act = e.act AND u.takes_back = 1
    CROSS JOIN params t
    WHERE
        e.takes_back = 0
        AND u.known_tick <= f.first_tick + t.label_ticks
        AND (
            u.at_ms > e.at_ms
            OR (u.at_ms = e.at_ms AND u.received_ms > e.received_ms)
            OR (u.at_ms = e.at_ms AND u.received_ms = e.received_ms AND u.seq > e.seq)
            OR (u.at_ms = e.at_ms AND u.received_ms = e.received_ms AND u.seq = e.seq AND u.event_id > e.event_id)
        )
    GROUP BY e.user_id, e.event_id
),
graded AS (
    SELECT
        e.user_id,
        e.request_id,
        e.ping_id,
        MIN(e.position) AS position,
        MIN(
            CASE
                WHEN b.event_id IS NOT NULL THEN 9
                WHEN e.event_type = 'report' THEN 0
                WHEN e.event_type = 'hide' THEN 1
                ELSE 9
            END
        ) AS worst,
        MAX(
            CASE
                WHEN b.event_id IS NOT NULL THEN 2
                WHEN e.event_type = 'view' AND e.watch_time_ratio >= 0.75 THEN 4
                WHEN e.event_type = 'view' AND e.watch_time_ratio >= 0.25 THEN 3
                WHEN e.event_type = 'like' THEN 5
                WHEN e.event_type = 'comment' THEN 6
                WHEN e.event_type = 'share' THEN 7
                WHEN e.event_type = 'follow' THEN 8
                ELSE 2
            END
        ) AS best,
        f.first_tick,
        f.first_ms
    FROM events e
    JOIN first_known f ON f.user_id = e.user_id AND f.request_id = e.request_id
    LEFT JOIN taken_back b ON b.user_id = e.user_id AND b.event_id = e.event_id
    CROSS JOIN params t
    WHERE
        e.ping_id IS NOT NULL
        AND e.event_type IN ('impression', 'view', 'like', 'comment', 'share', 'follow', 'hide', 'report')
        AND e.known_tick <= f.first_tick + t.label_ticks
        AND f.first_tick >= t.from_tick
        AND f.first_tick < t.until_tick
        AND f.first_tick + t.label_ticks <= t.cutoff_tick
    GROUP BY e.user_id, e.request_id, e.ping_id, f.first_tick, f.first_ms
)
SELECT
    g.user_id,
    g.request_id,
    g.ping_id,
    n.number AS ping,
    COALESCE(s.position, g.position) AS position,
    CASE WHEN g.worst < 9 THEN g.worst ELSE g.best END AS grade,
    g.first_tick,
    COALESCE(s.served_ms, g.first_ms) AS request_ms,
    COALESCE(s.snapshot_tick, g.first_tick - 1) AS snapshot_tick,
    CASE WHEN s.snapshot_tick IS NULL THEN g.first_tick - 1 ELSE s.packet_tick END AS packet_tick,
    s.source,
    s.retrieval_score,
    s.realtime_0,
    s.realtime_1,
    s.realtime_2,
    s.realtime_3
FROM graded g
JOIN numbers n ON n.kind = 'ping' AND n.id = g.ping_id
LEFT JOIN served s ON s.user_id = g.user_id AND s.request_id = g.request_id AND s.ping_id = g.ping_id
ORDER BY g.first_tick, g.request_id, g.user_id, g.ping_id
