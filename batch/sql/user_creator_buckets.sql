-- Impressions and reward points of each user with each creator in each tick.
SELECT
    user_id,
    creator,
    tick,
    CAST(SUM(impressions) AS BIGINT) AS impressions,
    CAST(SUM(points) AS BIGINT) AS points
FROM acts
WHERE creator IS NOT NULL AND event_type NOT IN ('unfollow', 'block')
GROUP BY user_id, creator, tick
