-- All that a version came from, merges and reverts included
-- question: Q4
-- param rev REVISION: the version
WITH RECURSIVE line(id) AS (
  SELECT parent FROM v_lineage WHERE child = :rev
  UNION
  SELECT l.parent FROM line JOIN v_lineage l ON l.child = line.id
)
SELECT c.id AS revision, c.time, c.author, c.source, c.message,
  (SELECT group_concat(p.parent, ' ') FROM v_lineage p WHERE p.child = c.id) AS parents,
  c.event
FROM line JOIN v_commits c ON c.id = line.id
ORDER BY c.event DESC, c.generation DESC
