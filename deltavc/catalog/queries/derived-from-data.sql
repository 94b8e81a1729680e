-- Versions that were trained on a data set, or came from one that was, and where they are live
-- question: Q14
-- param data TEXT: SHA-256 of the data set, or its name
WITH RECURSIVE line(key) AS (
  SELECT commit_key FROM commit_data WHERE sha256 = :data
  UNION
  SELECT commit_key FROM commit_data WHERE name = :data
  UNION
  SELECT p.child_key FROM line JOIN parents p ON p.parent_key = line.key
), sorted AS MATERIALIZED (
  SELECT c.id FROM line JOIN commits c ON c.key = line.key
  ORDER BY c.event_number, c.generation
)
SELECT c.id AS revision, c.time, c.author, c.message,
  EXISTS (SELECT 1 FROM v_data d WHERE d.revision = c.id AND :data IN (d.sha256, d.name))
    AS trained_on_it,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id AND d.until_event IS NULL) AS live_in,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id) AS was_live_in,
  c.event
FROM sorted CROSS JOIN v_commits c ON c.id = sorted.id
