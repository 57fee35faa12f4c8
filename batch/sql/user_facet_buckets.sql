-- Impressions and reward points of each user with each facet value in each tick.
SELECT
    user_id,
    value,
    tick,
    CAST(SUM(impressions) AS BIGINT) AS impressions,
    CAST(SUM(points) AS BIGINT) AS points
FROM (
    SELECT a.user_id, f.value, a.tick, a.impressions, a.points + a.steering AS points
    FROM acts a
    JOIN ping_facets f ON f.ping = a.ping AND f.from_tick <= a.tick AND a.tick < f.to_tick
    WHERE a.counted = 1 OR a.steering <> 0
    UNION ALL
    SELECT user_id, value, tick, 0, steering FROM acts WHERE value IS NOT NULL AND steering <> 0
) AS both_parts
GROUP BY user_id, value, tick
