-- Measures of each ping in each tick. acts: as acts.sql gives them.
SELECT
    ping,
    tick,
    CAST(SUM(impressions) AS BIGINT) AS impressions,
    CAST(SUM(views) AS BIGINT) AS views,
    CAST(SUM(watch_bp) AS BIGINT) AS watch_bp,
    CAST(SUM(likes) AS BIGINT) AS likes,
    CAST(SUM(shares) AS BIGINT) AS shares,
    CAST(SUM(hides) AS BIGINT) AS hides,
    CAST(SUM(follows) AS BIGINT) AS follows,
    CAST(SUM(points) AS BIGINT) AS points
FROM acts
WHERE ping IS NOT NULL AND counted = 1
GROUP BY ping, tick
