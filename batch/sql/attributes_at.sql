-- The named numbers that each probed ping carried. probes(ping, at_tick), distinct.
SELECT p.ping, p.at_tick, a.name, a.number
FROM probes p
JOIN ping_attributes a ON a.ping = p.ping AND a.from_tick <= p.at_tick AND p.at_tick < a.to_tick
