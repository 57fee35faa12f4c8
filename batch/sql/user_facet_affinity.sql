-- The twin of user_creator_affinity.sql: a change here is a change there.
-- How far each value beats the day's average for a user, shrunk; the user's strongest as of each probe, by absolute
-- strength, ties by number. What does not make the cut is unknown, in the packet and in training.
-- user_facet_buckets(user_id, value, tick, impressions, points); probes(user_id, at_tick), distinct; priors(day, ...).
WITH pairs AS (
    SELECT p.user_id, met.value, p.at_tick
    FROM probes p
    JOIN (
        SELECT user_id, value, MIN(tick) AS first_tick FROM user_facet_buckets GROUP BY user_id, value
    ) met ON met.user_id = p.user_id AND met.first_tick <= p.at_tick
),
moves AS (
    SELECT user_id, value, tick AS at_tick, 0 AS probe, 1 AS buckets, impressions, points FROM user_facet_buckets
    UNION ALL
    SELECT user_id, value, tick + month_ticks, 0, -1, -impressions, -points
    FROM user_facet_buckets CROSS JOIN params
    WHERE tick + month_ticks <= last_probe
    UNION ALL
    SELECT user_id, value, at_tick, 1, 0, 0, 0 FROM pairs
),
collapsed AS (
    SELECT
        m.user_id,
        m.value,
        GREATEST(m.at_tick, t.first_probe) AS at_tick,
        MAX(m.probe) AS probe,
        CAST(SUM(m.buckets) AS BIGINT) AS buckets,
        CAST(SUM(m.impressions) AS BIGINT) AS impressions,
        CAST(SUM(m.points) AS BIGINT) AS points
    FROM moves m
    CROSS JOIN params t
    GROUP BY m.user_id, m.value, GREATEST(m.at_tick, t.first_probe)
),
running AS (
    SELECT
        user_id,
        value,
        at_tick,
        probe,
        CAST(SUM(buckets) OVER sofar AS BIGINT) AS buckets,
        CAST(SUM(impressions) OVER sofar AS DOUBLE) AS impressions,
        CAST(SUM(points) OVER sofar AS DOUBLE) / 10000.0 AS points
    FROM collapsed
    WINDOW sofar AS (
        PARTITION BY user_id, value ORDER BY at_tick RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )
),
strengths AS (
    SELECT
        r.user_id,
        r.at_tick,
        r.value,
        (r.points - r.impressions * q.points_rate) / (r.impressions + 5.0) AS affinity
    FROM running r
    CROSS JOIN params t
    JOIN priors q ON q.day = CAST(FLOOR(r.at_tick / t.day_ticks) AS BIGINT)
    WHERE r.probe = 1 AND r.buckets > 0
),
ranked AS (
    SELECT
        user_id,
        at_tick,
        value,
        affinity,
        ROW_NUMBER() OVER (PARTITION BY user_id, at_tick ORDER BY ABS(affinity) DESC, value) AS place
    FROM strengths
)
SELECT user_id, at_tick, value, affinity
FROM ranked
CROSS JOIN params
WHERE place <= top_affinities
