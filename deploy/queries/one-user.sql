-- What one user did and was shown over the last 30 days; Athena asks for the user's id
WITH acts AS (
  SELECT
    *, concat(year, '-', month, '-', day) AS arrived,
    row_number() OVER (PARTITION BY event_id ORDER BY received_ms) AS copy
  FROM events
  WHERE year BETWEEN CAST(extract(YEAR FROM current_date - INTERVAL '30' DAY) AS varchar)
      AND CAST(extract(YEAR FROM current_date) AS varchar)
    AND concat(year, '-', month, '-', day) > CAST(CAST(current_date - INTERVAL '30' DAY AS date) AS varchar)
    AND user_id = ?
)
SELECT
  arrived, timestamp_ms, received_ms, event_type, ping_id, creator_id, topic, watch_time_ratio, request_id, position,
  model_id, served_pings, event_id
FROM acts
WHERE copy = 1
ORDER BY received_ms DESC, seq DESC
LIMIT 1000
