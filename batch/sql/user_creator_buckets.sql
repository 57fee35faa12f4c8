-- Impressions and reward points of each user with each creator in each tick.
SELECT
    user_id,
    creator,
    tick,
    CAST(SUM(impressions) AS BIGINT) AS impressions,
    CAST(SUM(points + steering) AS BIGINT) AS points
FROM acts
WHERE creator IS NOT NULL AND (counted = 1 OR steering <> 0)
GROUP BY user_id, creator, tick
