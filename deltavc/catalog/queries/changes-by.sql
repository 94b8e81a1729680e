-- What somebody did, by the name that they give or the user that was observed
-- question: Q1
-- param actor TEXT: the name, the mail address, or a part of one
-- param since TIME = 1970-01-01: not before
SELECT e.number AS event, e.time, e.actor, e."user", e.host, e.command, e.summary, e.reason
FROM v_events e
WHERE e.time >= :since AND (instr(lower(e.actor), lower(:actor)) > 0 OR e."user" = :actor)
ORDER BY e.number DESC
