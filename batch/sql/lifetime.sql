-- Everything a ping got up to the end of a day: the state before it plus that day's buckets.
-- state(ping, impressions, points); ping_buckets of the day.
SELECT ping, CAST(SUM(impressions) AS BIGINT) AS impressions, CAST(SUM(points) AS BIGINT) AS points
FROM (
    SELECT ping, impressions, points FROM state
    UNION ALL
    SELECT ping, impressions, points FROM ping_buckets
) AS both_parts
GROUP BY ping
