-- What each environment serves now, and since when
-- question: Q8
SELECT d.environment, d.deployment, d.revision, d.time AS since, d.actor, d.action, d.reason,
  d.gate_verdict, d.approvals, d.approvals_needed, d.message
FROM v_deployments d
WHERE d.until_event IS NULL
ORDER BY d.environment
