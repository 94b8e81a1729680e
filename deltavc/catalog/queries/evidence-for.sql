-- The KPI evidence that each decision on a version rests on: what the gates saw, and of which data
-- question: Q6
-- param rev REVISION: the version
SELECT coalesce(v.deployment, v.request) AS decision, v.environment, v.gate, v.policy, v.overridden,
  v.rule, v.verdict, v.sentence, v.kpi, v.value, v.low, v.high, v.samples, v.baseline,
  m.dataset, m.dataset_sha256, m.actor AS measured_by, m.time AS measured, m.tool,
  v.measurement
FROM v_verdicts v LEFT JOIN v_measurements m ON m.id = v.measurement AND m.revision = :rev
WHERE v.revision = :rev
ORDER BY v.event, v.gate, v.rule
