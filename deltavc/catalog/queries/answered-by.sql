-- Which version a serving id stands for, and where it was live
-- question: Q15
-- param id REVISION: the serving id, as in a response header or deltavc.json
SELECT c.id AS revision, d.environment, d.deployment, d.time AS since, d.until, d.receipt,
  c.author, c.message
FROM v_commits c LEFT JOIN v_deployments d ON d.revision = c.id
WHERE c.id = :id
ORDER BY d.event
