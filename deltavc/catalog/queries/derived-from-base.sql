-- Versions that stand on a base, and where they are live
-- question: Q14
-- param base TEXT: the base's fingerprint, or the first digits of it
WITH sorted AS MATERIALIZED (
  SELECT id FROM commits WHERE base >= :base AND base < :base || 'g'
  ORDER BY event_number, generation
)
SELECT c.id AS revision, c.time, c.author, c.message,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id AND d.until_event IS NULL) AS live_in,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id) AS was_live_in,
  c.event
FROM sorted CROSS JOIN v_commits c ON c.id = sorted.id
