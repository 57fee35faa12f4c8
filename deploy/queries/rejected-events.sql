-- Why events were rejected, over the last 7 days
SELECT day, code, field, count(*) AS events, min(message) AS example
FROM rejected
WHERE day > CAST(CAST(current_date - INTERVAL '7' DAY AS date) AS varchar)
GROUP BY day, code, field
ORDER BY day DESC, events DESC, code
