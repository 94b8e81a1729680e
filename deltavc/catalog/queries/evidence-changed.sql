-- Decisions that rest on a measurement that was corrected afterwards
-- question: Q7
-- expect: nothing
SELECT v.deployment, v.environment, v.revision, v.gate, v.rule, v.kpi, v.value,
  new.value AS corrected_to, new.actor AS corrected_by, new.time AS corrected, new.reason
FROM v_verdicts v
JOIN v_measurements old ON old.id = v.measurement
JOIN v_measurements new ON new.id = old.superseded_by
WHERE v.deployment IS NOT NULL AND new.event > v.event
ORDER BY v.event, v.gate, v.rule
