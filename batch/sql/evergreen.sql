-- The top tenth of all pings by engagement before the day began.
-- lifetime(ping, impressions, points): sums over every day before it.
SELECT ping
FROM (
    SELECT
        ping,
        ROW_NUMBER() OVER (ORDER BY points DESC, ping) AS place,
        COUNT(*) OVER (PARTITION BY 1) AS pings
    FROM lifetime
    WHERE points > 0
) AS ranked
WHERE place * 10 <= pings
