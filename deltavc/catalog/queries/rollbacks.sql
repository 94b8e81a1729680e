-- Who went back from what to what, when and why, and how long the bad version was live
-- question: Q16
-- param since TIME = 1970-01-01: not before
-- param env TEXT = : only this environment
SELECT r.environment, r.deployment, r.time, r.actor, r.reason, bad.revision AS went_back_from,
  r.revision AS went_back_to, bad.deployment AS bad_deployment, bad.time AS bad_since,
  max(0, round((julianday(r.time) - julianday(bad.time)) * 86400, 3)) AS seconds_bad, r.late
FROM v_deployments r
LEFT JOIN v_deployments bad ON bad.event = CAST(substr(r.previous, 3) AS INTEGER)
WHERE r.action = 'rollback' AND r.time >= :since AND (:env = '' OR r.environment = :env)
ORDER BY r.event
