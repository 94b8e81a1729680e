-- Who made a version, when, on which machine, with what
-- question: Q1
-- param rev REVISION: the version
SELECT c.id AS revision, c.author, c.time AS made, e.actor AS recorded_by, e.time AS recorded,
  e."user", e.host, c.tool, c.source, c.branch, e.number AS event, c.message
FROM v_commits c JOIN v_events e ON e.number = c.event
WHERE c.id = :rev
