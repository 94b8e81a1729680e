-- Deployments for which a rule in force at the time did not pass, and whether it was overridden
-- question: Q12
-- param since TIME = 1970-01-01: not before
-- param env TEXT = : only this environment
SELECT d.environment, d.deployment, d.revision, d.time, d.until, d.actor, v.gate, v.rule,
  v.verdict, v.sentence, v.value, v.low, v.high, v.samples, v.overridden, d.reason, v.policy
FROM v_verdicts v JOIN v_deployments d ON d.event = v.event
WHERE v.verdict <> 'pass' AND d.time >= :since AND (:env = '' OR d.environment = :env)
ORDER BY d.event, v.gate, v.rule
