-- A facet value's smoothed reward as of each probe; see ping_features.sql for the method.
-- facet_value_buckets; probes(value, at_tick), distinct; priors(day, ...).
WITH moves AS (
    SELECT value, tick AS at_tick, 0 AS probe, impressions, points FROM facet_value_buckets
    UNION ALL
    SELECT value, tick + month_ticks, 0, -impressions, -points
    FROM facet_value_buckets CROSS JOIN params
    WHERE tick + month_ticks <= last_probe
    UNION ALL
    SELECT value, at_tick, 1, 0, 0 FROM probes
),
collapsed AS (
    SELECT
        m.value,
        GREATEST(m.at_tick, t.first_probe) AS at_tick,
        MAX(m.probe) AS probe,
        CAST(SUM(m.impressions) AS BIGINT) AS impressions,
        CAST(SUM(m.points) AS BIGINT) AS points
    FROM moves m
    CROSS JOIN params t
    GROUP BY m.value, GREATEST(m.at_tick, t.first_probe)
),
running AS (
    SELECT
        value,
        at_tick,
        probe,
        CAST(SUM(impressions) OVER sofar AS DOUBLE) AS impressions,
        CAST(SUM(points) OVER sofar AS DOUBLE) / 10000.0 AS points
    FROM collapsed
    WINDOW sofar AS (PARTITION BY value ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
SELECT
    r.value,
    r.at_tick,
    (r.points + 20.0 * q.points_rate) / (r.impressions + 20.0) AS points_30d
FROM running r
CROSS JOIN params t
JOIN priors q ON q.day = CAST(FLOOR(r.at_tick / t.day_ticks) AS BIGINT)
WHERE r.probe = 1
