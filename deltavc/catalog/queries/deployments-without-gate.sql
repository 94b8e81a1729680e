-- Deployments that no gate was asked for, or in spite of one
-- question: Q12
-- param since TIME = 1970-01-01: not before
-- param env TEXT = : only this environment
SELECT d.environment, d.deployment, d.revision, d.time, d.until, d.actor, d.gate_verdict,
  d.overridden, d.reason, d.message
FROM v_deployments d
WHERE d.action <> 'rollback' AND (d.gate_verdict IS NULL OR d.overridden = 1)
  AND d.time >= :since AND (:env = '' OR d.environment = :env)
ORDER BY d.event
