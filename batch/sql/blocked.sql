-- Every creator that a user ever blocked: the state before plus the buckets since. Nothing takes a block back.
-- state(user_id, creator, tick); relation_buckets(user_id, creator, tick, relation).
SELECT user_id, creator, MIN(tick) AS tick
FROM (
    SELECT user_id, creator, tick FROM state
    UNION ALL
    SELECT user_id, creator, tick FROM relation_buckets WHERE relation = 'block'
) AS both_parts
GROUP BY user_id, creator
