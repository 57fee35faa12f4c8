-- Engagement of each ping by country in each tick, for trending. One engagement counts per user, ping and type.
SELECT
    country,
    ping,
    tick,
    CAST(COUNT(*) AS BIGINT) AS engagements
FROM (
    SELECT DISTINCT COALESCE(country, '') AS country, ping, tick, user_id, event_type
    FROM acts
    WHERE ping IS NOT NULL AND (event_type IN ('like', 'comment', 'share') OR watch_bp >= 5000)
) AS engaged
GROUP BY country, ping, tick
