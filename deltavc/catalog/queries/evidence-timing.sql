-- Whether each measurement of a version was recorded before or after each decision on it
-- question: Q7
-- param rev REVISION: the version
SELECT d.deployment, d.environment, d.time AS decided, m.kpi, m.slice, m.value,
  m.time AS recorded,
  CASE WHEN m.event < d.event THEN 'before' ELSE 'after' END AS relation,
  EXISTS (SELECT 1 FROM v_verdicts v WHERE v.event = d.event AND v.measurement = m.id)
    AS decided_on,
  new.value AS corrected_to, new.time AS corrected, new.reason, m.id AS measurement
FROM v_deployments d
JOIN v_measurements m ON m.revision = d.revision
LEFT JOIN v_measurements new ON new.id = m.superseded_by
WHERE d.revision = :rev
ORDER BY d.event, m.event, m.kpi
