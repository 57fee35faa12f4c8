-- Engagement by UTC day of arrival, over the last 14 days
WITH acts AS (
  SELECT
    concat(year, '-', month, '-', day) AS day, user_id, event_type, watch_time_ratio,
    row_number() OVER (PARTITION BY user_id, event_id ORDER BY received_ms) AS copy
  FROM events
  WHERE year BETWEEN CAST(extract(YEAR FROM current_date - INTERVAL '14' DAY) AS varchar)
      AND CAST(extract(YEAR FROM current_date) AS varchar)
    AND concat(year, '-', month, '-', day) > CAST(CAST(current_date - INTERVAL '14' DAY AS date) AS varchar)
)
SELECT
  day,
  count(DISTINCT user_id) AS users,
  count_if(event_type = 'feed_served') AS feeds,
  count_if(event_type = 'impression') AS impressions,
  count_if(event_type = 'view') AS views,
  round(avg(watch_time_ratio), 3) AS mean_watch_ratio,
  count_if(event_type = 'like') AS likes,
  count_if(event_type = 'comment') AS comments,
  count_if(event_type = 'share') AS shares,
  count_if(event_type = 'follow') AS follows,
  count_if(event_type = 'hide') AS hides,
  count_if(event_type = 'report') AS reports
FROM acts
WHERE copy = 1
GROUP BY day
ORDER BY day
