-- All that a version came from, merges and reverts included
-- question: Q4
-- param rev REVISION: the version
WITH RECURSIVE line(key) AS (
  SELECT p.parent_key FROM commits c JOIN parents p ON p.child_key = c.key WHERE c.id = :rev
  UNION
  SELECT p.parent_key FROM line JOIN parents p ON p.child_key = line.key
), sorted AS MATERIALIZED (
  SELECT c.id FROM line JOIN commits c ON c.key = line.key
  ORDER BY c.event_number DESC, c.generation DESC
)
SELECT c.id AS revision, c.time, c.author, c.source, c.message,
  (SELECT group_concat(p.parent, ' ') FROM v_lineage p WHERE p.child = c.id) AS parents,
  c.event
FROM sorted CROSS JOIN v_commits c ON c.id = sorted.id
