-- The facet values that each probed ping carried. probes(ping, at_tick), distinct.
SELECT p.ping, p.at_tick, f.facet, f.position, f.value
FROM probes p
JOIN ping_facets f ON f.ping = p.ping AND f.from_tick <= p.at_tick AND p.at_tick < f.to_tick
