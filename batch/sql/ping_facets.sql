-- The facet values of each version of a ping, with the range of ticks in which that version holds.
-- facets(ping, known_tick, event_id, facet, position, value); ping_versions as ping_versions.sql gives them.
SELECT f.ping, f.facet, f.position, f.value, v.from_tick, v.to_tick
FROM facets f
JOIN ping_versions v ON v.ping = f.ping AND v.from_tick = f.known_tick AND v.event_id = f.event_id
