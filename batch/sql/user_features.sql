-- The user's features and place as of each probe; see ping_features.sql for the method.
-- user_buckets; probes(user_id, at_tick), distinct; priors(day, ...).
WITH moves AS (
    SELECT
        user_id, tick AS at_tick, 0 AS probe,
        impressions AS impressions_1d,
        impressions AS impressions_30d, points AS points_30d, views AS views_30d, watch_bp AS watch_30d,
        likes AS likes_30d, hides AS hides_30d,
        country_at, language_at
    FROM user_buckets
    UNION ALL
    SELECT user_id, tick + day_ticks, 0, -impressions, 0, 0, 0, 0, 0, 0, NULL, NULL
    FROM user_buckets CROSS JOIN params
    WHERE tick + day_ticks <= last_probe
    UNION ALL
    SELECT
        user_id, tick + month_ticks, 0, 0, -impressions, -points, -views, -watch_bp, -likes, -hides, NULL, NULL
    FROM user_buckets CROSS JOIN params
    WHERE tick + month_ticks <= last_probe
    UNION ALL
    SELECT user_id, at_tick, 1, 0, 0, 0, 0, 0, 0, 0, NULL, NULL FROM probes
),
collapsed AS (
    SELECT
        m.user_id,
        GREATEST(m.at_tick, t.first_probe) AS at_tick,
        MAX(m.probe) AS probe,
        CAST(SUM(m.impressions_1d) AS BIGINT) AS impressions_1d,
        CAST(SUM(m.impressions_30d) AS BIGINT) AS impressions_30d,
        CAST(SUM(m.points_30d) AS BIGINT) AS points_30d,
        CAST(SUM(m.views_30d) AS BIGINT) AS views_30d,
        CAST(SUM(m.watch_30d) AS BIGINT) AS watch_30d,
        CAST(SUM(m.likes_30d) AS BIGINT) AS likes_30d,
        CAST(SUM(m.hides_30d) AS BIGINT) AS hides_30d,
        MAX(m.country_at) AS country_at,
        MAX(m.language_at) AS language_at
    FROM moves m
    CROSS JOIN params t
    GROUP BY m.user_id, GREATEST(m.at_tick, t.first_probe)
),
running AS (
    SELECT
        user_id,
        at_tick,
        probe,
        CAST(SUM(impressions_1d) OVER sofar AS DOUBLE) AS impressions_1d,
        CAST(SUM(impressions_30d) OVER sofar AS DOUBLE) AS impressions_30d,
        CAST(SUM(points_30d) OVER sofar AS DOUBLE) / 10000.0 AS points_30d,
        CAST(SUM(views_30d) OVER sofar AS DOUBLE) AS views_30d,
        CAST(SUM(watch_30d) OVER sofar AS DOUBLE) / 10000.0 AS watch_30d,
        CAST(SUM(likes_30d) OVER sofar AS DOUBLE) AS likes_30d,
        CAST(SUM(hides_30d) OVER sofar AS DOUBLE) AS hides_30d,
        MAX(country_at) OVER sofar AS country_at,
        MAX(language_at) OVER sofar AS language_at
    FROM collapsed
    WINDOW sofar AS (PARTITION BY user_id ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
SELECT
    r.user_id,
    r.at_tick,
    (r.points_30d + 20.0 * q.points_rate) / (r.impressions_30d + 20.0) AS user_points_30d,
    (r.watch_30d + 10.0 * q.watch_mean) / (r.views_30d + 10.0) AS user_watch_30d,
    (r.likes_30d + 20.0 * q.like_rate) / (r.impressions_30d + 20.0) AS user_like_rate_30d,
    (r.hides_30d + 20.0 * q.hide_rate) / (r.impressions_30d + 20.0) AS user_hide_rate_30d,
    LEAST(r.impressions_1d, 60000.0) AS user_impressions_1d,
    LEAST(r.impressions_30d, 60000.0) AS user_impressions_30d,
    CASE
        WHEN FLOOR(r.country_at / 4294967296) > r.at_tick - t.month_ticks
            THEN CAST(r.country_at % 4294967296 AS BIGINT)
        ELSE 0
    END AS country,
    CASE
        WHEN FLOOR(r.language_at / 4294967296) > r.at_tick - t.month_ticks
            THEN CAST(r.language_at % 4294967296 AS BIGINT)
        ELSE 0
    END AS language
FROM running r
CROSS JOIN params t
JOIN priors q ON q.day = CAST(FLOOR(r.at_tick / t.day_ticks) AS BIGINT)
WHERE r.probe = 1
