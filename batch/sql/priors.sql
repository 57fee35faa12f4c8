-- Average rates of the 30 days before each day: what smoothing leans on. Computed from earlier days only.
-- ping_buckets of at least those days; days(day).
WITH daily AS (
    SELECT
        CAST(FLOOR(b.tick / p.day_ticks) AS BIGINT) AS day,
        CAST(SUM(b.impressions) AS BIGINT) AS impressions,
        CAST(SUM(b.views) AS BIGINT) AS views,
        CAST(SUM(b.watch_bp) AS BIGINT) AS watch_bp,
        CAST(SUM(b.likes) AS BIGINT) AS likes,
        CAST(SUM(b.shares) AS BIGINT) AS shares,
        CAST(SUM(b.hides) AS BIGINT) AS hides,
        CAST(SUM(b.follows) AS BIGINT) AS follows,
        CAST(SUM(b.points) AS BIGINT) AS points
    FROM ping_buckets b
    CROSS JOIN params p
    GROUP BY CAST(FLOOR(b.tick / p.day_ticks) AS BIGINT)
),
summed AS (
    SELECT
        days.day,
        CAST(COALESCE(SUM(daily.impressions), 0) AS DOUBLE) AS impressions,
        CAST(COALESCE(SUM(daily.views), 0) AS DOUBLE) AS views,
        CAST(COALESCE(SUM(daily.watch_bp), 0) AS DOUBLE) AS watch_bp,
        CAST(COALESCE(SUM(daily.likes), 0) AS DOUBLE) AS likes,
        CAST(COALESCE(SUM(daily.shares), 0) AS DOUBLE) AS shares,
        CAST(COALESCE(SUM(daily.hides), 0) AS DOUBLE) AS hides,
        CAST(COALESCE(SUM(daily.follows), 0) AS DOUBLE) AS follows,
        CAST(COALESCE(SUM(daily.points), 0) AS DOUBLE) AS points
    FROM days
    LEFT JOIN daily ON daily.day >= days.day - 30 AND daily.day < days.day
    GROUP BY days.day
)
SELECT
    day,
    (points / 10000.0 + 20.0) / (impressions + 100.0) AS points_rate,
    (watch_bp / 10000.0 + 50.0) / (views + 100.0) AS watch_mean,
    (likes + 2.0) / (impressions + 100.0) AS like_rate,
    (shares + 1.0) / (impressions + 100.0) AS share_rate,
    (hides + 0.5) / (impressions + 100.0) AS hide_rate,
    (follows + 0.2) / (impressions + 100.0) AS follow_rate
FROM summed
