-- Whether each measurement of a version was recorded before or after each decision on it
-- question: Q7
-- param rev REVISION: the version
SELECT d.deployment, d.environment, d.time AS decided, m.kpi, m.slice, m.value,
  m.time AS recorded,
  CASE WHEN m.event < d.event THEN 'before' ELSE 'after' END AS relation,
  EXISTS (SELECT 1 FROM v_verdicts v WHERE v.event = d.event AND v.measurement = m.id)
    AS decided_on,
  (SELECT new.value FROM v_measurements new WHERE new.id = m.superseded_by) AS corrected_to,
  (SELECT new.time FROM v_measurements new WHERE new.id = m.superseded_by) AS corrected,
  (SELECT new.reason FROM v_measurements new WHERE new.id = m.superseded_by) AS reason,
  m.id AS measurement
FROM v_deployments d
JOIN v_measurements m ON m.revision = d.revision
WHERE d.revision = :rev
ORDER BY d.event, m.event, m.kpi
