-- Versions that were trained on a data set, or came from one that was, and where they are live
-- question: Q14
-- param data TEXT: SHA-256 of the data set, or its name
WITH RECURSIVE line(id) AS (
  SELECT revision FROM v_data WHERE sha256 = :data
  UNION
  SELECT revision FROM v_data WHERE name = :data
  UNION
  SELECT l.child FROM line JOIN v_lineage l ON l.parent = line.id
)
SELECT c.id AS revision, c.time, c.author, c.message,
  EXISTS (SELECT 1 FROM v_data d WHERE d.revision = c.id AND :data IN (d.sha256, d.name))
    AS trained_on_it,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id AND d.until_event IS NULL) AS live_in,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id) AS was_live_in,
  c.event
FROM line JOIN v_commits c ON c.id = line.id
ORDER BY c.event, c.generation
