-- Versions that stand on a base, and where they are live
-- question: Q14
-- param base TEXT: the base's fingerprint, or the first digits of it
SELECT c.id AS revision, c.time, c.author, c.message,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id AND d.until_event IS NULL) AS live_in,
  (SELECT group_concat(DISTINCT d.environment) FROM v_deployments d
   WHERE d.revision = c.id) AS was_live_in,
  c.event
FROM v_commits c
WHERE c.base >= :base AND c.base < :base || 'g'
ORDER BY c.event, c.generation
