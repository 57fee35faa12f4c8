-- Who gets the places in feeds, over the last 7 days; a creator is known by pings published in the last 60
WITH recent AS (
  SELECT
    concat(year, '-', month, '-', day) AS day, event_type, user_id, request_id, ping_id, creator_id, served_pings,
    row_number() OVER (PARTITION BY user_id, event_id ORDER BY received_ms) AS copy
  FROM events
  WHERE year BETWEEN CAST(extract(YEAR FROM current_date - INTERVAL '60' DAY) AS varchar)
      AND CAST(extract(YEAR FROM current_date) AS varchar)
    AND concat(year, '-', month, '-', day) > CAST(CAST(current_date - INTERVAL '60' DAY AS date) AS varchar)
    AND event_type IN ('feed_served', 'ping_created')
),
creators AS (
  SELECT ping_id, min(creator_id) AS creator_id FROM recent WHERE event_type = 'ping_created' GROUP BY ping_id
),
places AS (
  SELECT recent.user_id, served.ping_id
  FROM recent CROSS JOIN UNNEST(recent.served_pings) AS served (ping_id)
  WHERE recent.event_type = 'feed_served'
    AND recent.copy = 1
    AND recent.day > CAST(CAST(current_date - INTERVAL '7' DAY AS date) AS varchar)
)
SELECT
  coalesce(creators.creator_id, '(older)') AS creator_id,
  count(*) AS places,
  count(DISTINCT places.user_id) AS users,
  count(DISTINCT places.ping_id) AS pings,
  round(100.0 * count(*) / sum(count(*)) OVER (), 2) AS percent_of_places
FROM places LEFT JOIN creators ON creators.ping_id = places.ping_id
GROUP BY coalesce(creators.creator_id, '(older)')
ORDER BY places DESC, creator_id
LIMIT 100
