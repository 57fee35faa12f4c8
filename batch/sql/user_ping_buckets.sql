-- What each user did with each ping in each tick: collaborative filtering and the seen filter read it. A ping that was
-- only hidden is not seen: it may come back.
SELECT
    user_id,
    ping,
    tick,
    CAST(SUM(impressions) AS BIGINT) AS impressions,
    CAST(SUM(1 - hides) AS BIGINT) AS seen,
    CAST(SUM(points) AS BIGINT) AS points
FROM acts
WHERE ping IS NOT NULL AND counted = 1
GROUP BY user_id, ping, tick
