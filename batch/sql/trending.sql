-- The last day's engagement of each ping by country, and overall (country ''): an engagement counts for less the longer
-- ago it was, in a straight line down to nothing after a day.
-- country_ping_buckets of at least the last day.
WITH recent AS (
    SELECT b.country, b.ping, b.engagements * (t.day_ticks - (t.last_probe - b.tick)) AS weight
    FROM country_ping_buckets b
    CROSS JOIN params t
    WHERE b.tick <= t.last_probe AND b.tick > t.last_probe - t.day_ticks
)
SELECT country, ping, CAST(SUM(weight) AS BIGINT) AS weight FROM recent WHERE country <> '' GROUP BY country, ping
UNION ALL
SELECT '' AS country, ping, CAST(SUM(weight) AS BIGINT) AS weight FROM recent GROUP BY ping
