-- Measures of each user in each tick, and the last country and language they gave in it (by the order key).
-- A place is kept as tick * 2^32 + code, so that the running maximum is the latest one that is known.
WITH placed AS (
    SELECT
        user_id,
        tick,
        country,
        language,
        ROW_NUMBER() OVER (
            PARTITION BY user_id, tick
            ORDER BY CASE WHEN country IS NULL THEN 1 ELSE 0 END, at_ms DESC, received_ms DESC, seq DESC, event_id DESC
        ) AS by_country,
        ROW_NUMBER() OVER (
            PARTITION BY user_id, tick
            ORDER BY CASE WHEN language IS NULL THEN 1 ELSE 0 END, at_ms DESC, received_ms DESC, seq DESC, event_id DESC
        ) AS by_language
    FROM acts
)
SELECT
    a.user_id,
    a.tick,
    CAST(SUM(a.impressions) AS BIGINT) AS impressions,
    CAST(SUM(a.views) AS BIGINT) AS views,
    CAST(SUM(a.watch_bp) AS BIGINT) AS watch_bp,
    CAST(SUM(a.likes) AS BIGINT) AS likes,
    CAST(SUM(a.hides) AS BIGINT) AS hides,
    CAST(SUM(a.points) AS BIGINT) AS points,
    MAX(
        CASE
            WHEN c.country IS NOT NULL
                THEN a.tick * 4294967296 + ASCII(SUBSTR(c.country, 1, 1)) * 256 + ASCII(SUBSTR(c.country, 2, 1))
        END
    ) AS country_at,
    MAX(
        CASE
            WHEN l.language IS NULL THEN NULL
            WHEN SUBSTR(l.language, 3, 1) IN ('', '-')
                THEN a.tick * 4294967296
                    + ASCII(LOWER(SUBSTR(l.language, 1, 1))) * 256
                    + ASCII(LOWER(SUBSTR(l.language, 2, 1)))
            ELSE a.tick * 4294967296
                + ASCII(LOWER(SUBSTR(l.language, 1, 1))) * 65536
                + ASCII(LOWER(SUBSTR(l.language, 2, 1))) * 256
                + ASCII(LOWER(SUBSTR(l.language, 3, 1)))
        END
    ) AS language_at
FROM acts a
JOIN placed c ON c.user_id = a.user_id AND c.tick = a.tick AND c.by_country = 1
JOIN placed l ON l.user_id = a.user_id AND l.tick = a.tick AND l.by_language = 1
GROUP BY a.user_id, a.tick
