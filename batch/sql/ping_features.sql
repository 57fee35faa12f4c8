-- The ping's own features as of each probe: windows are ranges of ticks, a bucket enters at its tick and leaves one
-- window later; a running sum is read where a probe stands.
-- ping_buckets; probes(ping, at_tick), distinct; priors(day, ...); pings(ping, creator, created_tick);
-- ping_versions(ping, from_tick, to_tick, duration_ms, country, language); evergreen(day, ping).
WITH moves AS (
    SELECT
        ping, tick AS at_tick, 0 AS probe,
        impressions AS impressions_1h, points AS points_1h,
        impressions AS impressions_1d, points AS points_1d, views AS views_1d, watch_bp AS watch_1d,
        impressions AS impressions_7d, points AS points_7d, likes AS likes_7d, shares AS shares_7d,
        impressions AS impressions_30d, points AS points_30d, views AS views_30d, watch_bp AS watch_30d,
        hides AS hides_30d
    FROM ping_buckets
    UNION ALL
    SELECT
        ping, tick + hour_ticks, 0, -impressions, -points,
        0, 0, 0, 0,
        0, 0, 0, 0,
        0, 0, 0, 0, 0
    FROM ping_buckets CROSS JOIN params
    WHERE tick + hour_ticks <= last_probe
    UNION ALL
    SELECT
        ping, tick + day_ticks, 0, 0, 0,
        -impressions, -points, -views, -watch_bp,
        0, 0, 0, 0,
        0, 0, 0, 0, 0
    FROM ping_buckets CROSS JOIN params
    WHERE tick + day_ticks <= last_probe
    UNION ALL
    SELECT
        ping, tick + week_ticks, 0, 0, 0,
        0, 0, 0, 0,
        -impressions, -points, -likes, -shares,
        0, 0, 0, 0, 0
    FROM ping_buckets CROSS JOIN params
    WHERE tick + week_ticks <= last_probe
    UNION ALL
    SELECT
        ping, tick + month_ticks, 0, 0, 0,
        0, 0, 0, 0,
        0, 0, 0, 0,
        -impressions, -points, -views, -watch_bp, -hides
    FROM ping_buckets CROSS JOIN params
    WHERE tick + month_ticks <= last_probe
    UNION ALL
    SELECT
        ping, at_tick, 1, 0, 0,
        0, 0, 0, 0,
        0, 0, 0, 0,
        0, 0, 0, 0, 0
    FROM probes
),
collapsed AS (
    SELECT
        m.ping,
        GREATEST(m.at_tick, t.first_probe) AS at_tick,
        MAX(m.probe) AS probe,
        CAST(SUM(m.impressions_1h) AS BIGINT) AS impressions_1h,
        CAST(SUM(m.points_1h) AS BIGINT) AS points_1h,
        CAST(SUM(m.impressions_1d) AS BIGINT) AS impressions_1d,
        CAST(SUM(m.points_1d) AS BIGINT) AS points_1d,
        CAST(SUM(m.views_1d) AS BIGINT) AS views_1d,
        CAST(SUM(m.watch_1d) AS BIGINT) AS watch_1d,
        CAST(SUM(m.impressions_7d) AS BIGINT) AS impressions_7d,
        CAST(SUM(m.points_7d) AS BIGINT) AS points_7d,
        CAST(SUM(m.likes_7d) AS BIGINT) AS likes_7d,
        CAST(SUM(m.shares_7d) AS BIGINT) AS shares_7d,
        CAST(SUM(m.impressions_30d) AS BIGINT) AS impressions_30d,
        CAST(SUM(m.points_30d) AS BIGINT) AS points_30d,
        CAST(SUM(m.views_30d) AS BIGINT) AS views_30d,
        CAST(SUM(m.watch_30d) AS BIGINT) AS watch_30d,
        CAST(SUM(m.hides_30d) AS BIGINT) AS hides_30d
    FROM moves m
    CROSS JOIN params t
    GROUP BY m.ping, GREATEST(m.at_tick, t.first_probe)
),
running AS (
    SELECT
        ping,
        at_tick,
        probe,
        CAST(SUM(impressions_1h) OVER sofar AS DOUBLE) AS impressions_1h,
        CAST(SUM(points_1h) OVER sofar AS DOUBLE) / 10000.0 AS points_1h,
        CAST(SUM(impressions_1d) OVER sofar AS DOUBLE) AS impressions_1d,
        CAST(SUM(points_1d) OVER sofar AS DOUBLE) / 10000.0 AS points_1d,
        CAST(SUM(views_1d) OVER sofar AS DOUBLE) AS views_1d,
        CAST(SUM(watch_1d) OVER sofar AS DOUBLE) / 10000.0 AS watch_1d,
        CAST(SUM(impressions_7d) OVER sofar AS DOUBLE) AS impressions_7d,
        CAST(SUM(points_7d) OVER sofar AS DOUBLE) / 10000.0 AS points_7d,
        CAST(SUM(likes_7d) OVER sofar AS DOUBLE) AS likes_7d,
        CAST(SUM(shares_7d) OVER sofar AS DOUBLE) AS shares_7d,
        CAST(SUM(impressions_30d) OVER sofar AS DOUBLE) AS impressions_30d,
        CAST(SUM(points_30d) OVER sofar AS DOUBLE) / 10000.0 AS points_30d,
        CAST(SUM(views_30d) OVER sofar AS DOUBLE) AS views_30d,
        CAST(SUM(watch_30d) OVER sofar AS DOUBLE) / 10000.0 AS watch_30d,
        CAST(SUM(hides_30d) OVER sofar AS DOUBLE) AS hides_30d
    FROM collapsed
    WINDOW sofar AS (PARTITION BY ping ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
SELECT
    r.ping,
    r.at_tick,
    p.creator,
    v.country,
    v.language,
    p.created_tick,
    (r.points_1h + 20.0 * q.points_rate) / (r.impressions_1h + 20.0) AS ping_points_1h,
    (r.points_1d + 20.0 * q.points_rate) / (r.impressions_1d + 20.0) AS ping_points_1d,
    (r.points_7d + 20.0 * q.points_rate) / (r.impressions_7d + 20.0) AS ping_points_7d,
    (r.points_30d + 20.0 * q.points_rate) / (r.impressions_30d + 20.0) AS ping_points_30d,
    (r.watch_1d + 10.0 * q.watch_mean) / (r.views_1d + 10.0) AS ping_watch_1d,
    (r.watch_30d + 10.0 * q.watch_mean) / (r.views_30d + 10.0) AS ping_watch_30d,
    (r.likes_7d + 20.0 * q.like_rate) / (r.impressions_7d + 20.0) AS ping_like_rate_7d,
    (r.shares_7d + 20.0 * q.share_rate) / (r.impressions_7d + 20.0) AS ping_share_rate_7d,
    (r.hides_30d + 20.0 * q.hide_rate) / (r.impressions_30d + 20.0) AS ping_hide_rate_30d,
    r.impressions_1h AS ping_impressions_1h,
    r.impressions_1d AS ping_impressions_1d,
    r.impressions_30d AS ping_impressions_30d,
    CAST((r.at_tick - p.created_tick) * t.tick_ms AS DOUBLE) / 3600000.0 AS ping_age_hours,
    CAST(v.duration_ms AS DOUBLE) / 1000.0 AS ping_duration_s,
    CASE WHEN e.ping IS NULL THEN 0.0 ELSE 1.0 END AS ping_evergreen
FROM running r
CROSS JOIN params t
JOIN pings p ON p.ping = r.ping
JOIN ping_versions v ON v.ping = r.ping AND v.from_tick <= r.at_tick AND r.at_tick < v.to_tick
JOIN priors q ON q.day = CAST(FLOOR(r.at_tick / t.day_ticks) AS BIGINT)
LEFT JOIN evergreen e ON e.ping = r.ping AND e.day = CAST(FLOOR(r.at_tick / t.day_ticks) AS BIGINT)
WHERE r.probe = 1
