-- The named numbers of each version of a ping, with the range of ticks in which that version holds.
-- attributes(ping, known_tick, event_id, name, number); ping_versions as ping_versions.sql gives them.
SELECT a.ping, a.name, a.number, v.from_tick, v.to_tick
FROM attributes a
JOIN ping_versions v ON v.ping = a.ping AND v.from_tick = a.known_tick AND v.event_id = a.event_id
