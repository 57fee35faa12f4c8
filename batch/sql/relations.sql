-- The last thing each user said of following each creator: the state before plus the buckets since.
-- state and relation_buckets(user_id, creator, tick, relation).
SELECT user_id, creator, tick, relation
FROM (
    SELECT
        user_id,
        creator,
        tick,
        relation,
        ROW_NUMBER() OVER (PARTITION BY user_id, creator ORDER BY tick DESC, relation) AS place
    FROM (
        SELECT user_id, creator, tick, relation FROM state
        UNION ALL
        SELECT user_id, creator, tick, relation FROM relation_buckets WHERE relation <> 'block'
    ) AS both_parts
) AS ranked
WHERE place = 1
