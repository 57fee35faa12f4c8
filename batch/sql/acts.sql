-- What users did, one row an event, as integer measures. All else is summed from this.
-- events: clean rows. numbers(kind, id, number). pings(ping, creator, created_tick).
-- Reward points are basis points: a full watch is 10,000; hiding costs two of them. `counted` is 1 for acts that count
-- in measures, not for those that take back or steer: they teach the user's own affinities by `steering` points.
SELECT
    e.user_id,
    e.known_tick AS tick,
    n.number AS ping,
    CASE
        WHEN e.event_type IN ('follow', 'unfollow', 'block', 'unblock', 'mute', 'unmute') THEN c.number
        WHEN e.event_type IN ('more', 'less') AND e.creator_id IS NOT NULL THEN c.number
        WHEN p.created_tick <= e.known_tick THEN p.creator
    END AS creator,
    v.number AS value,
    e.event_type,
    e.country,
    e.language,
    e.interests,
    LEAST(e.timestamp_ms, e.received_ms) AS at_ms,
    e.received_ms,
    COALESCE(e.seq, 0) AS seq,
    e.event_id,
    CASE
        WHEN e.event_type IN ('impression', 'view', 'like', 'comment', 'share', 'hide', 'report', 'follow') THEN 1
        ELSE 0
    END AS counted,
    CASE WHEN e.event_type = 'more' THEN 20000 WHEN e.event_type = 'less' THEN -20000 ELSE 0 END AS steering,
    CASE WHEN e.event_type = 'impression' THEN 1 ELSE 0 END AS impressions,
    CASE WHEN e.event_type = 'view' THEN 1 ELSE 0 END AS views,
    CASE
        WHEN e.event_type = 'view' THEN CAST(FLOOR(CAST(e.watch_time_ratio AS DOUBLE) * 10000.0) AS BIGINT)
        ELSE 0
    END AS watch_bp,
    CASE WHEN e.event_type = 'like' THEN 1 ELSE 0 END AS likes,
    CASE WHEN e.event_type IN ('comment', 'share') THEN 1 ELSE 0 END AS shares,
    CASE WHEN e.event_type IN ('hide', 'report') THEN 1 ELSE 0 END AS hides,
    CASE WHEN e.event_type = 'follow' THEN 1 ELSE 0 END AS follows,
    CASE
        WHEN e.event_type = 'view'
            THEN LEAST(CAST(FLOOR(CAST(e.watch_time_ratio AS DOUBLE) * 10000.0) AS BIGINT), 10000)
        WHEN e.event_type = 'like' THEN 10000
        WHEN e.event_type = 'comment' THEN 15000
        WHEN e.event_type = 'share' THEN 20000
        WHEN e.event_type = 'follow' THEN 30000
        WHEN e.event_type = 'hide' THEN -20000
        WHEN e.event_type = 'report' THEN -30000
        ELSE 0
    END AS points
FROM events e
LEFT JOIN numbers n ON n.kind = 'ping' AND n.id = e.ping_id
LEFT JOIN numbers c ON c.kind = 'creator' AND c.id = e.creator_id
LEFT JOIN numbers v ON v.kind = 'value' AND v.id = 'topics=' || e.topic
LEFT JOIN pings p ON p.ping = n.number
WHERE e.user_id IS NOT NULL AND e.event_type NOT IN ('ping_created', 'ping_deleted', 'feed_served')
