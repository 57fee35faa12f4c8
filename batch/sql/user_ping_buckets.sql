-- What each user did with each ping in each tick: collaborative filtering and the seen filter read it.
SELECT
    user_id,
    ping,
    tick,
    CAST(SUM(impressions) AS BIGINT) AS impressions,
    CAST(SUM(hides) AS BIGINT) AS hides,
    CAST(SUM(points) AS BIGINT) AS points
FROM acts
WHERE ping IS NOT NULL
GROUP BY user_id, ping, tick
