-- What each user decided about each target in each tick: the act with the greatest order key (at_ms, received_ms, seq,
-- event_id). One that takes back is kept, with active 0: it outweighs an older act that becomes known later.
-- follow, block and mute are about a creator, hide (reports too) about a ping, mute_topic about a value; country,
-- language and interests are what `user_updated` said, about nothing (0).
WITH said AS (
    SELECT
        acts.*,
        CASE
            WHEN event_type IN ('follow', 'unfollow') THEN 'follow'
            WHEN event_type IN ('block', 'unblock') THEN 'block'
            WHEN event_type IN ('hide', 'report', 'unhide') THEN 'hide'
            WHEN event_type IN ('mute', 'unmute') AND creator IS NOT NULL THEN 'mute'
            WHEN event_type IN ('mute', 'unmute') THEN 'mute_topic'
        END AS kind
    FROM acts
),
decided AS (
    SELECT
        said.*,
        CASE WHEN kind = 'hide' THEN ping WHEN kind = 'mute_topic' THEN value ELSE creator END AS target
    FROM said
    WHERE kind IS NOT NULL
    UNION ALL
    SELECT acts.*, 'country' AS kind, 0 AS target FROM acts WHERE event_type = 'user_updated' AND country IS NOT NULL
    UNION ALL
    SELECT acts.*, 'language', 0 FROM acts WHERE event_type = 'user_updated' AND language IS NOT NULL
    UNION ALL
    SELECT acts.*, 'interests', 0 FROM acts WHERE event_type = 'user_updated' AND interests IS NOT NULL
),
ranked AS (
    SELECT
        user_id,
        kind,
        CAST(target AS BIGINT) AS target,
        CASE WHEN event_type IN ('unfollow', 'unblock', 'unhide', 'unmute') THEN 0 ELSE 1 END AS active,
        country,
        language,
        interests,
        tick,
        at_ms,
        received_ms,
        seq,
        event_id,
        ROW_NUMBER() OVER (
            PARTITION BY user_id, kind, target, tick ORDER BY at_ms DESC, received_ms DESC, seq DESC, event_id DESC
        ) AS place
    FROM decided
    WHERE target IS NOT NULL
)
SELECT
    user_id, kind, target, active, country, language, interests, tick, at_ms, received_ms, seq, event_id
FROM ranked
WHERE place = 1
