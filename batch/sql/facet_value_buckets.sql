-- Measures of each facet value in each tick: those of the pings that carried it when the act became known.
-- acts: as acts.sql gives them. ping_facets(ping, value, from_tick, to_tick): a half-open range of ticks.
SELECT
    f.value,
    a.tick,
    CAST(SUM(a.impressions) AS BIGINT) AS impressions,
    CAST(SUM(a.points) AS BIGINT) AS points
FROM acts a
JOIN ping_facets f ON f.ping = a.ping AND f.from_tick <= a.tick AND a.tick < f.to_tick
WHERE a.counted = 1
GROUP BY f.value, a.tick
