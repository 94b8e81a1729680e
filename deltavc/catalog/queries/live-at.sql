-- What environments served at a time: the last deployment of each up to then, by event number
-- question: Q8
-- param at TIME: the time
-- param env TEXT = : only this environment
SELECT d.environment, d.deployment, d.revision, d.time AS since, d.until, d.actor, d.action,
  d.reason, d.gate_verdict, d.approvals, d.approvals_needed, d.message
FROM v_deployments d
WHERE d.event IN (
  SELECT max(p.event) FROM v_deployments p
  WHERE p.time <= :at AND (:env = '' OR p.environment = :env)
  GROUP BY p.environment)
ORDER BY d.environment
