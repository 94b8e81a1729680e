-- All that came from a version, and where it is or was live
-- question: Q14
-- param rev REVISION: the version
WITH RECURSIVE line(id) AS (
  SELECT child FROM v_lineage WHERE parent = :rev
  UNION
  SELECT l.child FROM line JOIN v_lineage l ON l.parent = line.id
)
SELECT c.id AS revision, c.time, c.author, c.source, c.message,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id AND d.until_event IS NULL) AS live_in,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id) AS was_live_in,
  c.event
FROM line JOIN v_commits c ON c.id = line.id
ORDER BY c.event, c.generation
