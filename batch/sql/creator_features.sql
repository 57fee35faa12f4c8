-- The creator's features as of each probe; see ping_features.sql for the method.
-- creator_buckets; probes(creator, at_tick), distinct; priors(day, ...).
WITH moves AS (
    SELECT
        creator, tick AS at_tick, 0 AS probe,
        impressions AS impressions_7d, points AS points_7d,
        impressions AS impressions_30d, points AS points_30d, views AS views_30d, watch_bp AS watch_30d,
        hides AS hides_30d, follows AS follows_30d
    FROM creator_buckets
    UNION ALL
    SELECT creator, tick + week_ticks, 0, -impressions, -points, 0, 0, 0, 0, 0, 0
    FROM creator_buckets CROSS JOIN params
    WHERE tick + week_ticks <= last_probe
    UNION ALL
    SELECT creator, tick + month_ticks, 0, 0, 0, -impressions, -points, -views, -watch_bp, -hides, -follows
    FROM creator_buckets CROSS JOIN params
    WHERE tick + month_ticks <= last_probe
    UNION ALL
    SELECT creator, at_tick, 1, 0, 0, 0, 0, 0, 0, 0, 0
    FROM probes
),
collapsed AS (
    SELECT
        m.creator,
        GREATEST(m.at_tick, t.first_probe) AS at_tick,
        MAX(m.probe) AS probe,
        CAST(SUM(m.impressions_7d) AS BIGINT) AS impressions_7d,
        CAST(SUM(m.points_7d) AS BIGINT) AS points_7d,
        CAST(SUM(m.impressions_30d) AS BIGINT) AS impressions_30d,
        CAST(SUM(m.points_30d) AS BIGINT) AS points_30d,
        CAST(SUM(m.views_30d) AS BIGINT) AS views_30d,
        CAST(SUM(m.watch_30d) AS BIGINT) AS watch_30d,
        CAST(SUM(m.hides_30d) AS BIGINT) AS hides_30d,
        CAST(SUM(m.follows_30d) AS BIGINT) AS follows_30d
    FROM moves m
    CROSS JOIN params t
    GROUP BY m.creator, GREATEST(m.at_tick, t.first_probe)
),
running AS (
    SELECT
        creator,
        at_tick,
        probe,
        CAST(SUM(impressions_7d) OVER sofar AS DOUBLE) AS impressions_7d,
        CAST(SUM(points_7d) OVER sofar AS DOUBLE) / 10000.0 AS points_7d,
        CAST(SUM(impressions_30d) OVER sofar AS DOUBLE) AS impressions_30d,
        CAST(SUM(points_30d) OVER sofar AS DOUBLE) / 10000.0 AS points_30d,
        CAST(SUM(views_30d) OVER sofar AS DOUBLE) AS views_30d,
        CAST(SUM(watch_30d) OVER sofar AS DOUBLE) / 10000.0 AS watch_30d,
        CAST(SUM(hides_30d) OVER sofar AS DOUBLE) AS hides_30d,
        CAST(SUM(follows_30d) OVER sofar AS DOUBLE) AS follows_30d
    FROM collapsed
    WINDOW sofar AS (PARTITION BY creator ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
SELECT
    r.creator,
    r.at_tick,
    (r.points_7d + 20.0 * q.points_rate) / (r.impressions_7d + 20.0) AS creator_points_7d,
    (r.points_30d + 20.0 * q.points_rate) / (r.impressions_30d + 20.0) AS creator_points_30d,
    (r.watch_30d + 10.0 * q.watch_mean) / (r.views_30d + 10.0) AS creator_watch_30d,
    (r.hides_30d + 20.0 * q.hide_rate) / (r.impressions_30d + 20.0) AS creator_hide_rate_30d,
    (r.follows_30d + 20.0 * q.follow_rate) / (r.impressions_30d + 20.0) AS creator_follow_rate_30d,
    r.impressions_30d AS creator_impressions_30d
FROM running r
CROSS JOIN params t
JOIN priors q ON q.day = CAST(FLOOR(r.at_tick / t.day_ticks) AS BIGINT)
WHERE r.probe = 1
