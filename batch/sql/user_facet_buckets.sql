-- Impressions and reward points of each user with each facet value in each tick.
SELECT
    a.user_id,
    f.value,
    a.tick,
    CAST(SUM(a.impressions) AS BIGINT) AS impressions,
    CAST(SUM(a.points) AS BIGINT) AS points
FROM acts a
JOIN ping_facets f ON f.ping = a.ping AND f.from_tick <= a.tick AND a.tick < f.to_tick
GROUP BY a.user_id, f.value, a.tick
